"""The origins of every dataset and model, and what was made from it, as the manifests say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.store.dataset import Dataset
from pipelines.store.kinds import kind_of, parse_columns


@dataclass(frozen=True)
class Edge:
    """An input of a dataset, direct or indirect.

    output, input: `kind/name@fingerprint`; a source file is `source/name@sha256`. Twelve digits of each hash.
    role: the input's role in the step that read it; for an indirect input, in the step that read it first.
    distance: 1 for a direct input, 2 for an input of an input, and so on along the shortest path.
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
    """Return an edge for every input of every dataset, direct and indirect.

    Inputs that were deleted from the store still appear, but their own inputs are unknown.
    """
    direct = {str(dataset.ref): direct_edges(dataset) for dataset in datasets}
    found: list[Edge] = []
    for output, level in direct.items():
        seen: dict[str, Edge] = {}
        distance = 1
        while level:
            kind = output.partition("/")[0]
            fresh = {
                edge.input: replace(edge, output=output, output_kind=kind, distance=distance)
                for edge in level
                if edge.input not in seen
            }
            seen |= fresh
            level = [further for name in fresh for further in direct.get(name, [])]
            distance += 1
        found += seen.values()
    return found


def direct_edges(dataset: Dataset) -> list[Edge]:
    """Return what a step read to build a dataset: other datasets, and files from outside the store."""
    output, kind = str(dataset.ref), dataset.manifest.kind
    inputs = sorted(dataset.manifest.inputs.items())
    read = [(str(ref), ref.kind, role, 1, ref.digest) for role, ref in inputs]
    files = [(f"source/{f.name}@{f.sha256[:12]}", "source", "source", 1, f.sha256) for f in dataset.manifest.sources]
    return [Edge(output, kind, *each) for each in read + files]


# Trees, for people


@dataclass(frozen=True)
class Node:
    """A dataset or source file in a tree of inputs or of results.

    dataset: None for a source file, and for a dataset that is no longer in the store.
    repeated: the tree already has its branches in another place.
    """

    name: str
    kind: str
    role: str = ""
    dataset: Dataset | None = None
    branches: tuple[Node, ...] = ()
    repeated: bool = False

    def nodes(self) -> Iterator[Node]:
        """Yield the node and all nodes below it, each once."""
        if not self.repeated:
            yield self
            for branch in self.branches:
                yield from branch.nodes()


def origins(dataset: Dataset, datasets: Sequence[Dataset]) -> Node:
    """Return the tree of a dataset's inputs, their inputs, and so on down to the source files."""
    inputs = {
        str(each.ref): [(edge.input, edge.input_kind, edge.role) for edge in direct_edges(each)] for each in datasets
    }
    return _grow((str(dataset.ref), dataset.manifest.kind, ""), inputs, datasets)


def outcomes(name: str, kind: str, datasets: Sequence[Dataset]) -> Node:
    """Return the tree of what was made from a dataset or source file, directly and indirectly."""
    made: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for edge in (edge for dataset in datasets for edge in direct_edges(dataset)):
        made[edge.input].append((edge.output, edge.output_kind, edge.role))
    return _grow((name, kind, ""), made, datasets)


def relatives(dataset: Dataset, datasets: Sequence[Dataset]) -> dict[str, Node]:
    """Return a dataset, everything that it was made from and everything made from it, by name; without reports."""
    trees = origins(dataset, datasets), outcomes(str(dataset), dataset.manifest.kind, datasets)
    found = {node.name: node for tree in trees for node in tree.nodes()}
    return {name: node for name, node in found.items() if node.kind != "report" or name == str(dataset)}


def _grow(
    root: tuple[str, str, str], next_to: Mapping[str, list[tuple[str, str, str]]], datasets: Sequence[Dataset]
) -> Node:
    """Return a tree from its root and the neighbours of each node: (name, kind, role)."""
    known = {str(each.ref): each for each in datasets}
    seen: set[str] = set()

    def grow(name: str, kind: str, role: str) -> Node:
        repeated = name in seen
        seen.add(name)
        branches = () if repeated else tuple(grow(*each) for each in next_to.get(name, []))
        return Node(name, kind, role, known.get(name), branches, repeated)

    return grow(*root)


def source_files(what: str, datasets: Iterable[Dataset]) -> list[str]:
    """Find source files by name, base name or SHA-256 prefix; returns them as `source/name@digits`."""
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
    """Find a document or example by its id, or the first digits of it, in every version of every dataset."""
    if not re.fullmatch("[0-9a-f]{8,32}", doc_id):
        return []
    return [Sighting(dataset, *row.values()) for dataset in datasets for row in _find_texts(dataset, doc_id)]


def _find_texts(dataset: Dataset, doc_id: str) -> list[dict[str, str]]:
    view = kind_of(dataset.manifest.kind).texts
    if not view or not (files := dataset.files(view.files)):
        return []
    key = next(iter(parse_columns(view.columns)))
    rows = ds.dataset(files, format="parquet")
    columns = [key, "source", "location", "split", "text"]
    return rows.to_table(columns=columns, filter=pc.starts_with(ds.field(key), doc_id)).to_pylist()
