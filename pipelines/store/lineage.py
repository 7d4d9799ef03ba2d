"""Where every dataset and model came from, and what came of it, read out of the manifests."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.store.dataset import Dataset


@dataclass(frozen=True)
class Edge:
    """One thing that went into another, directly or through others.

    output, input: `kind/name@fingerprint`; a source file is `source/name@sha256`. Twelve digits of each hash.
    role: what the input is to the step that read it; for a far one, to the step that read it first.
    distance: 1 for a direct input, 2 for an input of an input, and so on; the shortest way counts.
    digest: SHA-256 of the input's content.
    """

    output: str
    output_kind: str
    input: str
    input_kind: str
    role: str
    distance: int
    digest: str


def edges(datasets: Iterable[Dataset]) -> list[Edge]:
    """Every pair of a dataset and something that went into it, near and far.

    Inputs that are no longer in the store still appear, but what had gone into them is not known any more.
    """
    direct = {str(dataset.ref): direct_edges(dataset) for dataset in datasets}
    found: list[Edge] = []
    for output, first in direct.items():
        seen: dict[str, Edge] = {}
        level, distance = first, 1
        while level:
            fresh = {edge.input: edge for edge in level if edge.input not in seen}
            for edge in fresh.values():
                seen[edge.input] = Edge(
                    output, first[0].output_kind, edge.input, edge.input_kind, edge.role, distance, edge.digest
                )
            level = [further for edge in fresh.values() for further in direct.get(edge.input, [])]
            distance += 1
        found += seen.values()
    return found


def direct_edges(dataset: Dataset) -> list[Edge]:
    """What a step read to build this dataset: other datasets, and files from outside the store."""
    output, kind = str(dataset.ref), dataset.manifest.kind
    read = [
        Edge(output, kind, str(ref), ref.kind, role, 1, ref.digest)
        for role, ref in sorted(dataset.manifest.inputs.items())
    ]
    files = [
        Edge(output, kind, f"source/{file.name}@{file.sha256[:12]}", "source", "source", 1, file.sha256)
        for file in dataset.manifest.sources
    ]
    return read + files


def users(datasets: Iterable[Dataset]) -> dict[str, list[Edge]]:
    """The direct edges by input: what has read each dataset and each source file."""
    by_input: dict[str, list[Edge]] = defaultdict(list)
    for dataset in datasets:
        for edge in direct_edges(dataset):
            by_input[edge.input].append(edge)
    return dict(by_input)


# Trees, for people


@dataclass(frozen=True)
class Node:
    """A dataset or source file in a tree of what came of what.

    dataset: None for a source file, and for a dataset that is no longer in the store.
    repeated: its branches stand elsewhere in the tree already.
    """

    name: str
    kind: str
    role: str = ""
    dataset: Dataset | None = None
    branches: tuple[Node, ...] = ()
    repeated: bool = False

    def nodes(self) -> Iterator[Node]:
        """The node and all under it, each once."""
        if not self.repeated:
            yield self
            for branch in self.branches:
                yield from branch.nodes()


def origins(dataset: Dataset, datasets: Sequence[Dataset]) -> Node:
    """What a dataset came from: its inputs, theirs, and so on down to the source files."""
    known = {str(each.ref): each for each in datasets}
    inputs = {
        name: [(edge.input, edge.input_kind, edge.role) for edge in direct_edges(each)] for name, each in known.items()
    }
    return _grow((str(dataset.ref), dataset.manifest.kind, ""), inputs, known, set())


def outcomes(name: str, kind: str, datasets: Sequence[Dataset]) -> Node:
    """What came of a dataset or source file: what was made from it, what was made from that, and so on."""
    known = {str(each.ref): each for each in datasets}
    made = {
        read: [(edge.output, edge.output_kind, edge.role) for edge in edges_]
        for read, edges_ in users(datasets).items()
    }
    return _grow((name, kind, ""), made, known, set())


def _grow(
    at: tuple[str, str, str],
    next_to: Mapping[str, list[tuple[str, str, str]]],
    known: Mapping[str, Dataset],
    seen: set[str],
) -> Node:
    name, kind, role = at
    repeated = name in seen
    seen.add(name)
    branches = () if repeated else tuple(_grow(each, next_to, known, seen) for each in next_to.get(name, []))
    return Node(name, kind, role, known.get(name), branches, repeated)


def source_files(what: str, datasets: Iterable[Dataset]) -> list[str]:
    """Source files, as `source/name@digits`, that a name, the last part of one, or a SHA-256's first digits fit."""
    found = {
        f"source/{file.name}@{file.sha256[:12]}": None
        for dataset in datasets
        for file in dataset.manifest.sources
        if what in (file.name, file.name.rpartition("/")[2], f"source/{file.name}")
        or (len(what) >= 8 and file.sha256.startswith(what))
    }
    return list(found)


@dataclass(frozen=True)
class Sighting:
    """A document or example in a dataset."""

    dataset: Dataset
    doc_id: str
    source: str
    location: str
    split: str
    text: str


def sightings(doc_id: str, datasets: Iterable[Dataset]) -> list[Sighting]:
    """Where a document or example stands, by its id or the first digits of it, in every version of everything."""
    if not re.fullmatch("[0-9a-f]{8,32}", doc_id):
        return []
    return [
        Sighting(dataset, *row.values())
        for dataset in datasets
        for row in _matching(dataset, {"corpus": "doc_id", "examples": "example_id"}.get(dataset.manifest.kind), doc_id)
    ]


def _matching(dataset: Dataset, key: str | None, doc_id: str) -> list[dict[str, str]]:
    files = [dataset.path / name for name in dataset.manifest.files if name.startswith(("documents", "examples"))]
    if not key or not files:
        return []
    rows = ds.dataset(files, format="parquet")
    columns = [key, "source", "location", "split", "text"]
    return rows.to_table(columns=columns, filter=pc.starts_with(ds.field(key), doc_id)).to_pylist()
