"""Mix: several corpora become one, each with as many epochs or as much weight as the config gives it.

Documents are drawn without replacement: a corpus of half an epoch gives half of its training documents, the same half
whatever else is mixed in, and one of two and a half epochs gives all of them twice, and half of them once more. What
is held out stays held out, and is there once. Statistics say what was really drawn from each corpus.

Output: `documents/part-*.parquet` and an empty `rejected.parquet`, as an ingest writes them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.documents import DOCUMENTS, REJECTED, SPLITS, Corpus
from pipelines.corpus.parquet import TableWriter, read_rows
from pipelines.errors import InputError
from pipelines.numbers import short
from pipelines.store.dataset import Dataset
from pipelines.store.files import link_or_copy
from pipelines.store.step import StepContext, StepType


class MixConfig(Config):
    """Which corpora are mixed, and how much of each. Give epochs or weights, by the corpora's names."""

    epochs: dict[str, float] = Field(default={}, description="How often each corpus is seen in one epoch of the mix.")
    weights: dict[str, float] = Field(default={}, description="Each corpus's share of the mix's training bytes.")
    most_epochs: float = Field(
        default=1.0, gt=0, description="With weights, how often the corpus that runs out first is seen."
    )
    seed: int = Field(default=0, description="Decides which documents make up a part of an epoch.")

    @property
    def names(self) -> set[str]:
        """The corpora that are mixed."""
        return set(self.epochs or self.weights)

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        given = self.epochs or self.weights
        if bool(self.epochs) == bool(self.weights):
            raise ValueError("give either epochs or weights for the corpora that are mixed")
        if min(given.values()) < 0 or not max(given.values()) > 0:
            raise ValueError("epochs and weights cannot be negative, and one of them has to be more than 0")
        return self


def run(inputs: Mapping[str, Dataset], config: MixConfig, out: Path, work: StepContext) -> dict[str, Any]:
    if config.names != inputs.keys():
        unknown = ", ".join(sorted(config.names ^ inputs.keys()))
        raise InputError(f"The mix has to name each of its corpora once ({', '.join(inputs)}); look at {unknown}.")
    epochs = _epochs(config, inputs)
    (out / "documents").mkdir()
    draws: list[Draw] = []
    for name, share in epochs.items():
        for epoch in range(-(-int(share * 1e9) // 10**9)):
            for part in Corpus(inputs[name]).parts:
                target = out / "documents" / f"part-{len(draws):05d}.parquet"
                draws.append(Draw(name, part, epoch, min(share - epoch, 1.0), config.seed, target))
    work.listener.progress(0, len(draws), "parts", "drawing")
    counts = work.map(draw_part, draws)
    with TableWriter(out / "rejected.parquet", REJECTED):
        pass
    total: Counter[str] = sum(counts, Counter())
    drawn = {name: total[f"bytes_train_from_{name}"] for name in epochs}
    there = {name: inputs[name].manifest.statistics["bytes_train"] for name in epochs}
    names = ["documents", "bytes", *(f"{what}_{split}" for split in SPLITS for what in ("documents", "bytes"))]
    names += [f"{what}_train_from_{name}" for name in epochs for what in ("documents", "bytes")]
    return {
        **{name: total[name] for name in names},
        **{f"share_of_{name}": round(drawn[name] / max(total["bytes_train"], 1), 6) for name in epochs},
        **{f"epochs_of_{name}": round(drawn[name] / max(there[name], 1), 6) for name in epochs},
    }


def _headline(s: Mapping[str, Any]) -> str:
    names = [key.removeprefix("epochs_of_") for key in s if key.startswith("epochs_of_")]
    drawn = ", ".join(f"{name} {s[f'share_of_{name}']:.0%} ({s[f'epochs_of_{name}']:.3g} epochs)" for name in names)
    return f"{s['documents']:,} documents, {short(s['bytes'])} bytes; for training {drawn}"


MIX = StepType(
    "mix",
    kind="corpus",
    version=3,
    config=MixConfig,
    run=run,
    packages=("pipelines.corpus",),
    headline=_headline,
)


def _epochs(config: MixConfig, inputs: Mapping[str, Dataset]) -> dict[str, float]:
    """Epochs of each corpus, in the order of the inputs' names."""
    if config.epochs:
        return {name: config.epochs[name] for name in sorted(inputs)}
    sizes = {name: inputs[name].manifest.statistics["bytes_train"] for name in sorted(inputs)}
    empty = [name for name, size in sizes.items() if not size and config.weights[name]]
    if empty:
        raise InputError(f"The corpus {inputs[empty[0]]} has no training documents to mix in.")
    # The corpus that is smallest for its weight is the one that runs out first.
    total = min(config.most_epochs * sizes[name] / config.weights[name] for name in sizes if config.weights[name])
    return {name: config.weights[name] * total / sizes[name] if sizes[name] else 0.0 for name in sizes}


@dataclass(frozen=True)
class Draw:
    """One part of a corpus, in one of its epochs, of which a share is drawn."""

    name: str
    part: Path
    epoch: int
    share: float
    seed: int
    target: Path


def draw_part(draw: Draw) -> Counter[str]:
    """Write what is drawn of a part; held-out documents come with the first epoch. Returns what there is."""
    counts: Counter[str] = Counter()
    whole = draw.epoch == 0 and draw.share == 1

    def drawn(row: Mapping[str, Any]) -> bool:
        if row["split"] != "train":
            return draw.epoch == 0
        return draw.share == 1 or _place(row["doc_id"], draw.seed) < draw.share

    def count(row: Mapping[str, Any]) -> None:
        for suffix in ("", f"_{row['split']}", f"_{row['split']}_from_{draw.name}"):
            counts["documents" + suffix] += 1
            counts["bytes" + suffix] += row["n_bytes"]

    if whole:
        link_or_copy(draw.part, draw.target)
        for row in read_rows(draw.part, ["split", "n_bytes"]):
            count(row)
        return counts
    with TableWriter(draw.target, DOCUMENTS) as table:
        for row in read_rows(draw.part):
            if drawn(row):
                table.write(row)
                count(row)
    return counts


def _place(doc_id: str, seed: int) -> float:
    """A number in [0, 1) drawn by document and seed; independent of the one that decides the split."""
    return int(hashlib.sha256(f"{seed} {doc_id}".encode()).hexdigest()[:13], 16) / 16**13
