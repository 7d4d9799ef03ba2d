"""What a document is: its normal form, its name (the hash of that form), and the split that the name decides."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.parquet import read_batches
from pipelines.corpus.quality import STATISTICS_TYPE
from pipelines.store.dataset import Dataset

Split = Literal["train", "validation", "test"]


SPLITS: tuple[str, ...] = ("train", "validation", "test")


class SplitConfig(Config):
    """How much is held out. A text falls on the same side in every corpus that holds out the same shares."""

    validation: float = Field(default=0.05, ge=0, le=1, description="Share of documents held out for validation.")
    test: float = Field(default=0.05, ge=0, le=1, description="Share of documents held out for the final test.")

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.validation + self.test > 1 + 1e-9:
            raise ValueError(f"validation {self.validation} and test {self.test} together are more than all there is")
        return self


def normalise(text: str) -> str:
    """Unicode normal form C, lines that end in a line feed, no white space around.

    Raises:
        UnicodeEncodeError: the text holds lone surrogates, which are not characters.
    """
    if not text.isascii():
        text.encode("utf-8")  # raises on surrogates
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def normalise_all(texts: Sequence[str]) -> list[bytes]:
    """What `normalise` makes of many texts, in UTF-8.

    Raises:
        TypeError: some is no text.
        UnicodeEncodeError: some text holds lone surrogates.
    """
    joined = "".join(texts)
    if joined.isascii() and "\r" not in joined:  # all that is left to do
        return list(map(str.encode, map(str.strip, texts)))
    return [normalise(text).encode() for text in texts]


def document_id(text: str) -> str:
    """The name of a normalised text: 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def split_of(doc_id: str, shares: SplitConfig) -> Split:
    """The split of a document: a function of its content, so it does not move when the corpus grows or is cut.

    Test documents come from one end of the hash's range and validation from the other, so that holding out more
    for one takes nothing from the other.
    """
    place = int(doc_id[:13], 16) / 16**13
    if place < shares.test:
        return "test"
    return "validation" if place >= 1 - shares.validation else "train"


def name_texts(texts: Sequence[bytes], shares: SplitConfig) -> tuple[pa.StringArray, pa.StringArray]:
    """What `document_id` and `split_of` say of many normalised texts, in UTF-8."""
    sha256 = hashlib.sha256
    whole = np.frombuffer(b"".join([sha256(text).digest() for text in texts]), np.uint8)
    digests = whole.reshape(-1, 32)[:, :16].tobytes()
    offsets = np.arange(len(texts) + 1, dtype=np.int32) * 32
    doc_ids = pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(digests.hex().encode()))
    places = (np.frombuffer(digests, ">u8")[::2] >> np.uint64(12)) / 2**52
    splits = np.where(places < shares.test, 2, np.where(places >= 1 - shares.validation, 1, 0))
    return doc_ids, pa.array(SPLITS).take(pa.array(splits))


def text_array(texts: Sequence[bytes]) -> pa.StringArray:
    """An Arrow array of texts that are UTF-8 already."""
    offsets = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, texts), np.int32, len(texts)), out=offsets[1:])
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))


DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("location", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("n_bytes", pa.int64()),
        ("language", pa.string()),  # null unless it was asked for
        ("metadata", pa.string()),  # JSON
        ("statistics", STATISTICS_TYPE),  # if there are rules of quality
    ]
)


REJECTED = pa.schema(
    [
        ("doc_id", pa.string()),  # null if no text could be read
        ("source", pa.string()),
        ("location", pa.string()),
        ("reason", pa.string()),
        ("kept", pa.string()),  # of a duplicate, the document that stands for it
        ("similarity", pa.float64()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("metadata", pa.string()),
        ("statistics", STATISTICS_TYPE),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """Documents in Parquet files, with the columns of `documents.DOCUMENTS`."""

    dataset: Dataset

    @property
    def parts(self) -> list[Path]:
        """The Parquet files, in the order of the documents."""
        return [
            self.dataset.file(name) for name in sorted(self.dataset.manifest.files) if name.startswith("documents/")
        ]

    @property
    def rejected(self) -> Path:
        """The Parquet file of what was left out, with the columns of `documents.REJECTED`."""
        return self.dataset.file("rejected.parquet")

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All documents in order, a few megabytes at a time."""
        for part in self.parts:
            yield from read_batches(part, columns)


def split_counts(statistics: Mapping[str, Any], what: str) -> str:
    """Describe how many of something each split has, by the statistics `<what>_<split>`."""
    counts = ((split, statistics.get(f"{what}_{split}")) for split in SPLITS)
    return ", ".join(f"{number:,} {split}" for split, number in counts if number)
