"""Tokenize: a corpus becomes shards of token ids, and the tokenizer that made them.

Each part of the corpus is one task. It writes its documents, in their order, into shards of one split each; the
shards are numbered when all are there, so neither names nor bytes depend on who worked and how fast.

When the corpus grew, parts that the last version had too are not encoded again: their shards are shared with it.

Output: `tokens-*.arrow` (Arrow IPC, one record batch: doc_id, split, n_tokens, tokens), `tokenizer.json`, and
`parts.json`, which says what each part of the corpus became.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import tiktoken
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.documents import SPLITS, Corpus
from pipelines.corpus.parquet import read_batches
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.files import file_sha256, link_or_copy, whole_file, write_json
from pipelines.store.manifest import SourceFile
from pipelines.store.partitions import mark_done, read_done
from pipelines.store.step import StepContext, StepType, canonical_json, map_in_turn
from pipelines.tokenizers import (
    FILE,
    Tokenizer,
    count_characters,
    count_words,
    load_tokenizer,
    named_tokenizer,
    train_byte_pairs,
)

PARTS = "parts.json"
LEARNT = ("bpe", "characters", "words")  # encodings that are made of the corpus
CHUNK = 1 << 19  # bytes of text encoded in one call


class TokenizeConfig(Config):
    """From a corpus to tokens."""

    encoding: str = Field(
        default="gpt2", description="A tiktoken encoding, or one made of the corpus: bpe, characters, words."
    )
    tokenizer: str | None = Field(
        default=None,
        json_schema_extra={"fingerprint": False},  # its content counts, as a source file's does
        description="A `tokenizer.json`, such as a published model's, in place of an encoding.",
    )
    vocabulary: int | None = Field(
        default=None, gt=256, description="Number of token ids, for an encoding made of the corpus."
    )
    training_bytes: int = Field(
        default=256 << 20, gt=0, description="Most training text that a vocabulary is learnt from."
    )
    special_tokens: tuple[str, ...] = Field(default=(), description="Special tokens to add behind the vocabulary.")
    shard_tokens: int = Field(default=1 << 26, gt=0, description="Tokens after which a shard is full.")

    @model_validator(mode="after")
    def _check_tokenizer(self) -> Self:
        if self.tokenizer and (self.vocabulary or self.encoding != "gpt2"):
            raise ValueError("tokenizer takes the place of encoding and vocabulary; leave those out")
        if self.encoding == "bpe" and self.vocabulary is None:
            raise ValueError("encoding is bpe, so vocabulary has to say how many tokens to learn")
        if self.encoding in LEARNT:
            return self
        published = tiktoken.list_encoding_names()  # which imports them all
        if self.encoding not in published:
            raise ValueError(f"there is no encoding {self.encoding!r}; known are {', '.join((*LEARNT, *published))}")
        if self.vocabulary is not None:
            raise ValueError(f"vocabulary cannot be set for {self.encoding!r}, whose vocabulary is published")
        return self


def run(inputs: Mapping[str, Dataset], config: TokenizeConfig, out: Path, work: StepContext) -> dict[str, Any]:
    corpus = Corpus(inputs["corpus"])
    tokenizer = make_tokenizer(config, corpus)
    saved = tokenizer.save(out)
    parts = corpus.parts
    threads = os.cpu_count() or 1
    if work.map is not map_in_turn and len(parts) > 1:
        threads = 1  # the parts already go to many workers
    made = {name: entry.sha256 for name, entry in corpus.dataset.manifest.files.items()}
    by = file_sha256(saved)
    keys = [_key(made[f"documents/{part.name}"], by, config) for part in parts]
    known = _known(work)
    tasks = [
        Task(part, saved, config.shard_tokens, threads, work.scratch / f"part-{number:05d}")
        for number, part in enumerate(parts)
        if keys[number] not in known
    ]
    work.report.progress(len(parts) - len(tasks), len(parts), "parts", "encoding")
    encoded = iter(work.map(tokenize_part, tasks))
    of_parts = [known[key] if key in known else next(encoded) for key in keys]
    shards = [shard for shards in of_parts for shard in shards]
    shards.sort(key=lambda shard: SPLITS.index(shard.split))
    for number, shard in enumerate(shards):
        link_or_copy(shard.path, out / f"tokens-{number:05d}.arrow")
    names = {shard.path: f"tokens-{number:05d}.arrow" for number, shard in enumerate(shards)}
    table = [[key, [shard.to_json(names[shard.path]) for shard in of]] for key, of in zip(keys, of_parts, strict=True)]
    write_json(out / PARTS, table)
    total: Counter[str] = Counter()
    for shard in shards:
        for name in ("documents", "tokens", "bytes"):
            total[name] += getattr(shard, name)
            total[f"{name}_{shard.split}"] += getattr(shard, name)
    counts = {
        f"{name}{suffix}": total[f"{name}{suffix}"] for suffix in ("", *(f"_{s}" for s in SPLITS)) for name in NAMES
    }
    return {
        **counts,
        "bytes_per_token": round(total["bytes"] / max(total["tokens"], 1), 4),
        "vocabulary": tokenizer.vocabulary,
        "shards": len(shards),
        "parts": len(parts),
        "parts_shared": len(parts) - len(tasks),
    }


NAMES = ("documents", "tokens", "bytes")


def _tokenizer_file(config: TokenizeConfig) -> tuple[SourceFile, ...]:
    if config.tokenizer is None:
        return ()
    path = Path(config.tokenizer)
    if not path.is_file():
        raise InputError(f"tokenize.tokenizer: there is no file {path}.")
    return (SourceFile(name=FILE, bytes=path.stat().st_size, sha256=file_sha256(path)),)


TOKENIZE = StepType(
    "tokenize",
    kind="tokens",
    version=1,
    config=TokenizeConfig,
    run=run,
    sources=_tokenizer_file,
    modules=("pipelines.tokenize", "pipelines.tokenizers", "pipelines.pretokens"),
)


def make_tokenizer(config: TokenizeConfig, corpus: Corpus) -> Tokenizer:
    """The tokenizer that a config asks for; one that is made of the corpus sees its training split only."""
    tokenizer: Tokenizer
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(Path(config.tokenizer))
    elif config.encoding == "bpe":
        assert config.vocabulary is not None
        tokenizer = train_byte_pairs(_training_texts(config, corpus), config.vocabulary)
    elif config.encoding == "characters":
        tokenizer = count_characters(_training_texts(config, corpus), config.vocabulary)
    elif config.encoding == "words":
        tokenizer = count_words(_training_texts(config, corpus), config.vocabulary)
    else:
        tokenizer = named_tokenizer(config.encoding)
    return tokenizer.with_special(config.special_tokens) if config.special_tokens else tokenizer


def _training_texts(config: TokenizeConfig, corpus: Corpus) -> Iterator[str]:
    left = config.training_bytes
    for batch in corpus.batches(["split", "text", "n_bytes"]):
        train = batch.filter(pc.equal(batch["split"], "train"))
        for text, n_bytes in zip(train["text"].to_pylist(), train["n_bytes"].to_pylist(), strict=True):
            if n_bytes > left:
                return
            left -= n_bytes
            yield text


# One part


@dataclass(frozen=True)
class Task:
    """A part of the corpus to encode, with what, and where to."""

    part: Path
    tokenizer: Path
    shard_tokens: int
    threads: int
    folder: Path


@dataclass(frozen=True)
class Shard:
    """A shard that was written, and what it holds."""

    path: Path
    split: str
    documents: int
    tokens: int
    bytes: int

    def to_json(self, name: str) -> list[Any]:
        return [name, self.split, self.documents, self.tokens, self.bytes]


def _key(part: str, tokenizer: str, config: TokenizeConfig) -> str:
    """Names what a part becomes: equal keys, equal shards."""
    made_of = [TOKENIZE.version, part, tokenizer, config.shard_tokens]
    return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()


def _known(work: StepContext) -> dict[str, list[Shard]]:
    """The shards of an earlier version, by the key of their part."""
    if not (previous := work.usable_previous(PARTS)):
        return {}
    table = json.loads(previous.file(PARTS).read_text())
    return {key: [Shard(previous.path / name, *counts) for name, *counts in shards] for key, shards in table}


def tokenize_part(task: Task) -> list[Shard]:
    """Encode a part into shards. Done once, even if the run was killed after."""
    if (done := read_done(task.folder)) is not None:
        return [Shard(Path(path), *counts) for path, *counts in done]
    task.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(task.tokenizer, task.tokenizer.stat().st_mtime_ns)
    writers: dict[str, ShardWriter] = {
        split: ShardWriter(task.folder, split, tokenizer, task.shard_tokens) for split in SPLITS
    }
    with ThreadPoolExecutor(task.threads) as pool:  # Arrow, NumPy and tiktoken release the interpreter
        map_ = pool.map if task.threads > 1 else map  # one thread more would only be waited for
        chunks = ((split, chunk) for batch in read_batches(task.part, COLUMNS) for split, chunk in _chunks(batch))
        while ahead := list(islice(chunks, 4 * task.threads)):
            encoded = map_(lambda each: tokenizer.encode_documents(each[1]["text"]), ahead)
            for (split, chunk), (ids, lengths) in zip(ahead, encoded, strict=True):
                writers[split].add(chunk, ids, lengths)
    shards = [shard for writer in writers.values() for shard in writer.close()]
    mark_done(task.folder, [shard.to_json(str(shard.path)) for shard in shards])
    return shards


COLUMNS = ("doc_id", "split", "text", "n_bytes")


@lru_cache(maxsize=2)
def _tokenizer(path: Path, _changed: int) -> Tokenizer:
    return load_tokenizer(path)


def _chunks(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Slices of one split and about `CHUNK` bytes each."""
    for split in SPLITS:
        documents = batch.filter(pc.equal(batch["split"], split))
        if len(documents):
            ends = np.cumsum(documents["n_bytes"].to_numpy())
            cuts = np.flatnonzero(np.diff(ends // CHUNK, prepend=0)) + 1
            bounds = np.unique(np.concatenate([[0], cuts, [len(documents)]]))
            for start, end in pairwise(bounds):
                yield split, documents.slice(start, end - start)


class ShardWriter:
    """Collects a split's documents and writes them to shards; a document is never divided."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self._folder, self._split, self._limit = folder, split, shard_tokens
        self._dtype = tokenizer.dtype
        # Ids wait in a file: a shard of them in memory, and once more while it is written, would be the most there is.
        self._ids = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._shards: list[Shard] = []
        self._clear()

    def _clear(self) -> None:
        self._ids.seek(0)
        self._ids.truncate()
        self._lengths: list[NDArray[np.int64]] = []
        self._doc_ids: list[pa.Array] = []
        self._tokens = self._bytes = 0

    def add(self, documents: pa.RecordBatch, ids: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> None:
        while self._tokens + len(ids) > self._limit:
            # As many whole documents as still fit, or one that fits nowhere.
            n = int(np.searchsorted(np.cumsum(lengths), self._limit - self._tokens, side="right"))
            if n == 0 and self._tokens == 0:
                n = 1
            self._take(documents.slice(0, n), ids[: int(lengths[:n].sum())], lengths[:n])
            documents, ids, lengths = documents.slice(n), ids[int(lengths[:n].sum()) :], lengths[n:]
            self._write()
        self._take(documents, ids, lengths)

    def _take(self, documents: pa.RecordBatch, ids: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> None:
        if len(documents):
            self._ids.write(ids.data)
            self._lengths.append(lengths)
            self._doc_ids.append(documents["doc_id"])
            self._tokens += len(ids)
            self._bytes += pc.sum(documents["n_bytes"]).as_py()

    def _write(self) -> None:
        if not self._tokens:
            return
        path = self._folder / f"{self._split}-{len(self._shards):05d}.arrow"
        self._ids.flush()
        ids = np.memmap(self._ids, self._dtype, "r", shape=(self._tokens,))
        lengths = np.concatenate(self._lengths)
        write_shard(path, self._split, pa.concat_arrays(self._doc_ids), lengths, ids)
        self._shards.append(Shard(path, self._split, len(lengths), self._tokens, self._bytes))
        self._clear()

    def close(self) -> list[Shard]:
        self._write()
        self._ids.close()
        return self._shards


def write_shard(
    path: Path,
    split: str,
    doc_ids: pa.StringArray,
    lengths: NDArray[np.int64],
    ids: NDArray[np.unsignedinteger],
) -> None:
    """Write documents as an Arrow IPC file of one record batch, whose flat list values are the training stream."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = {
        "doc_id": doc_ids,
        "split": pa.repeat(split, len(doc_ids)),
        "n_tokens": pa.array(lengths, pa.int64()),
        "tokens": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(ids)),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)
