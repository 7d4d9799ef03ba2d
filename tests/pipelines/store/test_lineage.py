"""Lineage: edges and trees of direct and indirect inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.lineage import Node
from pipelines.store.manifest import Manifest, Ref, SourceFile, describe_files


def dataset(
    number: int, inputs: list[Dataset], sources: tuple[str, ...] = (), kind: str = "corpus", path: str = "x"
) -> Dataset:
    fields: dict[str, Any] = {
        "kind": kind,
        "name": f"n{number}",
        "step": "s",
        "step_version": 1,
        "fingerprint": f"{number:064x}"[::-1],
        "digest": "d",
        "config": {},
        "inputs": {f"role{i}": each.ref for i, each in enumerate(inputs)},
        "sources": tuple(SourceFile(name=name, bytes=1, sha256=name.encode().hex().ljust(64, "0")) for name in sources),
        "files": {},
        "statistics": {},
        "code": "",
        "built": {"at": "2026-01-01T00:00:00+00:00"},
    }
    return Dataset(Path(path), Manifest(**fields))


graphs = st.lists(st.sets(st.integers(0, 20), max_size=3), min_size=1, max_size=12)


def build(graph: list[set[int]]) -> list[Dataset]:
    """Dataset i has those of its numbers as inputs that are below i; the first has a source file."""
    made: list[Dataset] = []
    for i, wanted in enumerate(graph):
        made.append(dataset(i, [made[j] for j in sorted(wanted) if j < i], ("a/book.txt",) if i == 0 else ()))
    return made


@given(graphs)
def test_edges_have_the_shortest_distance_to_every_input(graph: list[set[int]]) -> None:
    made = build(graph)
    found = {(edge.output, edge.input): edge.distance for edge in lineage.edges(made)}
    expected: dict[tuple[str, str], int] = {}
    for i, each in enumerate(made):
        level, distance = {i}, 0
        seen = {i}
        while level:
            distance += 1
            if 0 in level:
                expected.setdefault((str(each), "source/a/book.txt@612f626f6f6b"), distance)
            level = {k for j in level for k in graph[j] if k < j} - seen
            seen |= level
            expected |= {(str(each), str(made[k])): distance for k in level}
    assert found == expected


@given(graphs)
def test_trees_have_each_relative_once_in_both_directions(graph: list[set[int]]) -> None:
    made = build(graph)
    edges = lineage.edges(made)
    for each in made:
        below = [node.name for node in lineage.origins(each, made).nodes()]
        assert sorted(below) == sorted([str(each), *(edge.input for edge in edges if edge.output == str(each))])
        above = [node.name for node in lineage.outcomes(str(each), "corpus", made).nodes()]
        assert sorted(above) == sorted([str(each), *(edge.output for edge in edges if edge.input == str(each))])
        assert set(lineage.relatives(each, made)) == {*below, *above}


def test_deleted_input_is_still_named() -> None:
    old = dataset(1, [], ("book.txt",))
    new = dataset(2, [old])
    assert [(edge.input, edge.distance) for edge in lineage.edges([new])] == [(str(old), 1)]
    assert lineage.origins(new, [new]).branches == (Node(str(old), "corpus", "role0"),)


def test_source_files_are_found_by_name_base_name_or_digest() -> None:
    made = [dataset(1, [], ("kjv/book.txt", "other.txt"))]
    name = "source/kjv/book.txt@" + b"kjv/book.txt".hex()[:12]
    for what in ("kjv/book.txt", "book.txt", "source/kjv/book.txt", b"kjv/book.txt".hex()[:10]):
        assert lineage.source_files(what, made) == [name]
    assert lineage.source_files("kjv", made) == lineage.source_files("ook.txt", made) == []


def test_document_is_found_by_the_first_digits_of_its_id(tmp_path: Path) -> None:
    rows = [
        {"doc_id": digits * 16, "source": "kjv", "location": f"line {i}", "split": "train", "text": f"text {i}"}
        for i, digits in enumerate(["ab", "cd"])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents.parquet")
    plain = dataset(1, [], path=str(tmp_path))
    corpus = Dataset(tmp_path, plain.manifest.model_copy(update={"files": describe_files(tmp_path)}))
    found = lineage.sightings("cdcdcdcd", [plain, corpus])
    assert [(each.doc_id, each.location, each.text) for each in found] == [("cd" * 16, "line 1", "text 1")]
    assert lineage.sightings("cd", [corpus]) == lineage.sightings("ef" * 16, [corpus]) == []


def test_names_have_twelve_digits() -> None:
    ref = Ref(kind="corpus", name="n1", fingerprint="f" * 64, digest="d")
    assert str(ref) == "corpus/n1@ffffffffffff"
