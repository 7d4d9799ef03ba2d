"""Mix: several corpora become one, each with the epochs or the weight that the config gives it.

Documents are drawn without replacement. Half an epoch of a corpus is half of its training documents, the same half
whatever else is mixed in. Two and a half epochs are all of them twice, and half of them once more. Held-out documents
stay held out and occur once. Statistics say what was really drawn from each corpus.

Output: `documents/part-*.parquet` and an empty `rejected.parquet`, as an ingest writes them.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.documents import DOCUMENTS, REJECTED, SIZES, Corpus, sizes_of
from pipelines.corpus.parquet import TableWriter, read_batches, read_rows
from pipelines.errors import InputError
from pipelines.numbers import counted, short
from pipelines.store.dataset import Dataset
from pipelines.store.files import link_or_copy
from pipelines.store.step import StepContext, StepType


class MixConfig(Config):
    """The config of a mix: either epochs or weights, by the corpora's names."""

    epochs: dict[str, float] = {}
    """Epochs of each corpus in one epoch of the mix."""
    weights: dict[str, float] = {}
    """Weight of each corpus in the training bytes of the mix."""
    most_epochs: float = Field(1.0, gt=0)
    """With weights, epochs of the corpus that runs out first."""
    seed: int = 0
    """Seed that selects the documents of a part of an epoch."""

    @property
    def names(self) -> set[str]:
        """The names of the corpora that are mixed."""
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
    """Build the mix."""
    if config.names != inputs.keys():
        unknown = ", ".join(sorted(config.names ^ inputs.keys()))
        raise InputError(f"The mix has to name each of its corpora once ({', '.join(inputs)}); look at {unknown}.")
    epochs, held_out = _epochs(config, inputs), _held_out(inputs)
    (out / "documents").mkdir()
    draws: list[Draw] = []
    for name, share in epochs.items():
        for epoch in range(-(-int(share * 1e9) // 10**9)):
            for part in Corpus(inputs[name]).parts:
                target = out / "documents" / f"part-{len(draws):05d}.parquet"
                draws.append(Draw(name, part, epoch, min(share - epoch, 1.0), config.seed, target, held_out))
    work.listener.progress(0, len(draws), "parts", "drawing")
    sizes: dict[str, Counter[str]] = {name: Counter() for name in epochs}
    for draw, drawn_sizes in zip(draws, work.map(draw_part, draws), strict=True):
        sizes[draw.name].update(drawn_sizes)
    TableWriter(out / "rejected.parquet", REJECTED).close()
    total = sum(sizes.values(), Counter[str]())
    drawn = {name: sizes[name]["bytes_train"] for name in epochs}
    there = {name: inputs[name].manifest.statistics["bytes_train"] for name in epochs}
    return {
        **{name: total[name] for name in SIZES},
        **{
            f"{what}_train_from_{name}": sizes[name][f"{what}_train"]
            for name in epochs
            for what in ("documents", "bytes")
        },
        **{f"share_of_{name}": round(drawn[name] / max(total["bytes_train"], 1), 6) for name in epochs},
        **{f"epochs_of_{name}": round(drawn[name] / max(there[name], 1), 6) for name in epochs},
    }


def _headline(s: Mapping[str, Any]) -> str:
    names = [key.removeprefix("epochs_of_") for key in s if key.startswith("epochs_of_")]
    epochs = {name: f"{s[f'epochs_of_{name}']:.3g} epoch{'s' * (s[f'epochs_of_{name}'] != 1)}" for name in names}
    drawn = ", ".join(f"{name} {s[f'share_of_{name}']:.0%} ({epochs[name]})" for name in names)
    return f"{counted(s['documents'], 'document')}, {short(s['bytes'])} bytes; for training {drawn}"


MIX = StepType(
    "mix", kind="corpus", version=3, config=MixConfig, run=run, packages=("pipelines.corpus",), headline=_headline
)


def _epochs(config: MixConfig, inputs: Mapping[str, Dataset]) -> dict[str, float]:
    """Return the epochs of each corpus, by name and sorted."""
    if config.epochs:
        return {name: config.epochs[name] for name in sorted(inputs)}
    sizes = {name: inputs[name].manifest.statistics["bytes_train"] for name in sorted(inputs)}
    empty = [name for name, size in sizes.items() if not size and config.weights[name]]
    if empty:
        raise InputError(f"The corpus {inputs[empty[0]]} has no training documents to mix in.")
    # The corpus that is smallest for its weight runs out first.
    total = min(config.most_epochs * sizes[name] / config.weights[name] for name in sizes if config.weights[name])
    return {name: config.weights[name] * total / sizes[name] if sizes[name] else 0.0 for name in sizes}


def _held_out(inputs: Mapping[str, Dataset]) -> dict[str, str]:
    """Return the splits of documents that small corpora hold out by larger shares than those of their config.

    Another corpus may train on the same text, and no text is on two sides of a mix.
    """
    small = [Corpus(dataset) for dataset in inputs.values() if "test_share" in dataset.manifest.statistics]
    rows = (row for corpus in small for part in corpus.parts for row in read_rows(part, ["doc_id", "split"]))
    return {row["doc_id"]: row["split"] for row in rows if row["split"] != "train"}


@dataclass(frozen=True)
class Draw:
    """A share of a part of a corpus that is drawn in one epoch.

    held_out: the splits of documents that another corpus holds out by larger shares.
    """

    name: str
    part: Path
    epoch: int
    share: float
    seed: int
    target: Path
    held_out: Mapping[str, str]


def draw_part(draw: Draw) -> Counter[str]:
    """Write what is drawn of a part, and count it. Held-out documents come with the first epoch."""
    if draw.epoch == 0 and draw.share == 1 and not draw.held_out:
        link_or_copy(draw.part, draw.target)
    else:
        with TableWriter(draw.target, DOCUMENTS) as table:
            for batch in read_batches(draw.part):
                for row in batch.filter(pa.array(_are_drawn(batch, draw), pa.bool_())).to_pylist():
                    table.write(row | {"split": draw.held_out.get(row["doc_id"], row["split"])})
    return sum(map(sizes_of, read_batches(draw.target, ["split", "n_bytes"])), Counter())


def _are_drawn(documents: pa.RecordBatch, draw: Draw) -> list[bool]:
    ids = documents["doc_id"].to_pylist()
    splits = map(draw.held_out.get, ids, documents["split"].to_pylist())
    return [
        (draw.share == 1 or _place(doc_id, draw.seed) < draw.share) if split == "train" else draw.epoch == 0
        for doc_id, split in zip(ids, splits, strict=True)
    ]


def _place(doc_id: str, seed: int) -> float:
    """Return a number in [0, 1) drawn by document and seed, independent of the one that decides the split."""
    return int(hashlib.sha256(f"{seed} {doc_id}".encode()).hexdigest()[:13], 16) / 16**13
