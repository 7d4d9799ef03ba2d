"""Documents: their normal form, their id (the hash of that form), and the split that the id decides."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.composition import compose
from pipelines.corpus.parquet import read_batches
from pipelines.corpus.quality import STATISTICS_TYPE
from pipelines.store.dataset import Dataset

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = ("train", "validation", "test")
SIZES = tuple(f"{what}{part}" for part in ("", *(f"_{split}" for split in SPLITS)) for what in ("documents", "bytes"))

GUESSES = tuple(pa.field(name, pa.string()) for name in ("format", "compression", "encoding", "quotes", "doubtful"))
"""How a file was read, which no key may have said, and the names of those that are doubtful guesses."""

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("location", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("n_bytes", pa.int64()),
        ("language", pa.string()),  # null unless the config asks for it
        ("metadata", pa.string()),  # JSON
        *GUESSES,
        ("statistics", STATISTICS_TYPE),  # if there are rules of quality
    ]
)

REJECTED = pa.schema(
    [
        ("doc_id", pa.string()),  # null if no text could be read
        ("source", pa.string()),
        ("location", pa.string()),
        ("reason", pa.string()),
        ("kept", pa.string()),  # the document that a duplicate equals
        ("similarity", pa.float64()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("metadata", pa.string()),
        *GUESSES,
        ("statistics", STATISTICS_TYPE),
    ]
)


class SplitConfig(Config):
    """Shares that are held out. A text is on the same side in every corpus that holds out the same shares."""

    validation: float = Field(0.05, ge=0, le=1)
    """Share of documents held out for validation."""
    test: float = Field(0.05, ge=0, le=1)
    """Share of documents held out for the final test."""

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.validation + self.test > 1 + 1e-9:
            raise ValueError(f"validation {self.validation} and test {self.test} together are more than all there is")
        return self


def normalise(text: str, compose: Callable[[str], str] = compose) -> str:
    """Return a text in Unicode normal form C, with line feeds as line ends and without white space around it.

    Args:
        text: the text.
        compose: a faster function to normal form C, if one is enough.

    Raises:
        UnicodeEncodeError: the text holds lone surrogates, which are not characters.
    """
    if not text.isascii():
        text.encode("utf-8")  # raises on surrogates
        text = compose(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def document_id(text: str) -> str:
    """Return the id of a normalised text: 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def place_of(doc_id: str) -> float:
    """Return the place in [0, 1) at which a document's hash puts it."""
    return int(doc_id[:13], 16) / 16**13


def split_of(doc_id: str, shares: SplitConfig) -> Split:
    """Return the split of a document, a function of its content that does not change when the corpus grows.

    Test documents come from one end of the hash's range and validation documents from the other. So holding out more
    for one takes nothing from the other.
    """
    place = place_of(doc_id)
    if place < shares.test:
        return "test"
    return "validation" if place >= 1 - shares.validation else "train"


def sizes_of(documents: pa.RecordBatch) -> Counter[str]:
    """Count the documents and their bytes, of all and of each split."""
    sizes: Counter[str] = Counter()
    for split in SPLITS:
        n_bytes = documents["n_bytes"].filter(pc.equal(documents["split"], split))
        for suffix in ("", f"_{split}"):
            sizes["documents" + suffix] += len(n_bytes)
            sizes["bytes" + suffix] += pc.sum(n_bytes).as_py() or 0
    return sizes


@dataclass(frozen=True)
class Corpus:
    """A published corpus: documents in Parquet files, with the columns of `DOCUMENTS`."""

    dataset: Dataset

    @property
    def parts(self) -> list[Path]:
        """The Parquet files, in the order of the documents."""
        return self.dataset.files("documents/*")

    @property
    def rejected(self) -> Path:
        """The Parquet file of what was left out, with the columns of `REJECTED`."""
        return self.dataset.file("rejected.parquet")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all documents in order, a few megabytes at a time."""
        for part in self.parts:
            yield from read_batches(part, columns)


def split_counts(statistics: Mapping[str, Any], what: str) -> str:
    """Describe how many of something each split has, by the statistics `<what>_<split>`."""
    counts = ((split, statistics.get(f"{what}_{split}")) for split in SPLITS)
    return ", ".join(f"{number:,} {split}" for split, number in counts if number)
