"""Where every dataset and model came from, and what came of it, read out of the manifests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.store import Dataset


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
