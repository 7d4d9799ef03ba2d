"""A preview: ingest and examples of a small text, carried out in a temporary folder.

It tells what a run would make of the text: how many documents remain, how large they are, and which side of a split
each is on. A large text is not tried, because its shares come out as expected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.corpus.documents import SplitConfig, document_id, split_of
from pipelines.corpus.examples import ExamplesConfig
from pipelines.corpus.examples import run as run_examples
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import run as run_ingest
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.step import StepContext

TEXTS = 2 << 20  # bytes of text that are kept
FEWEST = 3  # examples of a split


@dataclass(frozen=True)
class Preview:
    """The documents that an ingest makes: the id, the size and the beginning of the texts."""

    doc_ids: tuple[str, ...]
    sizes: tuple[int, ...]
    texts: tuple[str, ...]

    def held_out(self, share: float) -> tuple[int, int, int]:
        """Return the bytes of training, validation and test, if validation and test each have a share."""
        shares, sizes = SplitConfig(validation=share, test=share), Counter[str]()
        for doc_id, size in zip(self.doc_ids, self.sizes, strict=True):
            sizes[split_of(doc_id, shares)] += size
        return sizes["train"], sizes["validation"], sizes["test"]

    def training_texts(self, share: float) -> list[str]:
        """Return the texts of training, if validation and test each have a share."""
        shares = SplitConfig(validation=share, test=share)
        texts = zip(self.doc_ids, self.texts, strict=False)
        return [text for doc_id, text in texts if split_of(doc_id, shares) == "train"] or list(self.texts)


@dataclass(frozen=True)
class TriedExamples:
    """Examples: the id of what decides the split, and the label."""

    examples: tuple[tuple[str, str], ...]

    def are_enough(self, share: float) -> bool:
        """Return whether each split has some examples, and training has two labels or more if they are labelled."""
        shares = SplitConfig(validation=share, test=share)
        labels: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for opening, label in self.examples:
            labels[split_of(opening, shares)].append(label)
        is_labelled = any(label for _, label in self.examples)
        known = set(labels["train"])
        has_known = len(known) > is_labelled and known & set(labels["validation"])
        return bool(has_known) and min(map(len, labels.values())) >= FEWEST


def try_ingest(ingest: dict[str, Any]) -> Preview:
    """Carry out an ingest.

    Raises:
        InputError: it would fail.
    """
    with TemporaryDirectory() as folder:
        out = _folders(Path(folder))
        run_ingest({}, IngestConfig.model_validate(ingest), out, StepContext(out.parent / "scratch"))
        rows = [row for part in sorted(out.glob("documents/*")) for row in read_rows(part, ["doc_id", "text"])]
    texts, left = [], TEXTS
    for row in rows:
        if left > 0:
            texts.append(row["text"][:left])
            left -= len(texts[-1])
    sizes = tuple(len(row["text"].encode()) for row in rows)
    return Preview(tuple(row["doc_id"] for row in rows), sizes, tuple(texts))


def try_examples(sources: Sequence[dict[str, Any]]) -> TriedExamples:
    """Read examples; none if a run would fail."""
    with TemporaryDirectory() as folder:
        out = _folders(Path(folder))
        try:
            run_examples(
                {}, ExamplesConfig.model_validate({"sources": sources}), out, StepContext(out.parent / "scratch")
            )
        except InputError:
            return TriedExamples(())
        rows = read_rows(out / "examples.parquet", ["text", "label", "history"])
        found = [(document_id((row["history"] or [row["text"]])[0]), row["label"] or "") for row in rows]
    return TriedExamples(tuple(found))


def _folders(folder: Path) -> Path:
    for name in ("out", "scratch"):
        (folder / name).mkdir()
    return folder / "out"
