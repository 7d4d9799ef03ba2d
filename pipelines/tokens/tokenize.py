"""Tokenize: a corpus becomes shards of token ids, and the tokenizer that made them.

Each part of the corpus is encoded as one task, into shards of one split each, in the order of its documents. Shards
are numbered after all tasks, so names and bytes depend neither on the workers nor on their speed.

A part that the previous version has too is not encoded again: both versions share its shards.

Output: `tokens-*.arrow` (Arrow IPC, one record batch: doc_id, split, n_tokens, tokens), `tokenizer.json`, and
`parts.json`, which lists the shards of each part.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tiktoken
from pydantic import Field, model_validator

from gpt.config import Config
from gpt.cores import cores
from pipelines.corpus.documents import SPLITS, Corpus
from pipelines.corpus.parquet import read_batches
from pipelines.corpus.places import Place
from pipelines.errors import InputError
from pipelines.numbers import short, size
from pipelines.store.dataset import Dataset
from pipelines.store.files import file_sha256, link_or_copy, write_json
from pipelines.store.manifest import SourceFile
from pipelines.store.partitions import mark_done, read_done
from pipelines.store.step import Listener, Meter, StepContext, StepType, canonical_json, map_in_turn
from pipelines.tokens.byte_pairs import MOST_UNBROKEN, train_byte_pairs, unbroken_bytes
from pipelines.tokens.characters import count_characters, count_words
from pipelines.tokens.shards import Shard, ShardWriter
from pipelines.tokens.tokenizer import FILE, Tokenizer
from pipelines.tokens.tokenizers import is_own, load_tokenizer, named_tokenizer

PARTS = "parts.json"

CHUNK = 1 << 19  # bytes of text encoded in one call

LEARNERS: dict[str, Callable[..., Tokenizer]] = {
    "bpe": train_byte_pairs,
    "characters": count_characters,
    "words": count_words,
}
"""The encodings that are learnt from the corpus."""


class TokenizeConfig(Config):
    """How a corpus is encoded as tokens."""

    encoding: str = "gpt2"
    """A tiktoken encoding, or bpe, characters, words, learnt from the corpus."""
    tokenizer: Place | None = Field(None, json_schema_extra={"fingerprint": False})
    """A `tokenizer.json`, such as that of a published model, in place of an encoding."""
    vocabulary: int | None = Field(None, gt=256)
    """Token ids of an encoding learnt from the corpus."""
    training_bytes: int = Field(256 << 20, gt=0)
    """Most bytes of text to learn a vocabulary from."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens to add after the vocabulary."""
    shard_tokens: int = Field(1 << 26, gt=0)
    """Tokens after which a shard is full."""

    @model_validator(mode="after")
    def _check_tokenizer(self) -> Self:
        if self.tokenizer and (self.vocabulary or self.encoding != "gpt2"):
            raise ValueError("tokenizer takes the place of encoding and vocabulary; leave those out")
        if self.encoding == "bpe" and self.vocabulary is None:
            raise ValueError("encoding is bpe, so vocabulary has to say how many tokens to learn")
        if self.encoding in LEARNERS:
            return self
        published = tiktoken.list_encoding_names()  # this imports them all
        if self.encoding not in published:
            raise ValueError(f"there is no encoding {self.encoding!r}; known are {', '.join((*LEARNERS, *published))}")
        if self.vocabulary is not None:
            raise ValueError(f"vocabulary cannot be set for {self.encoding!r}, whose vocabulary is published")
        return self


def run(inputs: Mapping[str, Dataset], config: TokenizeConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Encode the parts of a corpus that the previous version does not have, and publish the shards of all parts."""
    corpus = Corpus(inputs["corpus"])
    tokenizer = make_tokenizer(config, corpus, work.listener)
    tokenizer_file = tokenizer.save(out)
    parts, keys = corpus.parts, _part_keys(corpus, file_sha256(tokenizer_file), config)
    shards_of = _previous_shards(work)
    new = [number for number, key in enumerate(keys) if key not in shards_of]
    many_workers = work.map is not map_in_turn and len(parts) > 1
    threads = 1 if many_workers else cores()
    tasks = [
        EncodePart(parts[number], tokenizer_file, config.shard_tokens, threads, work.scratch / f"part-{number:05d}")
        for number in new
    ]
    work.listener.progress(len(parts) - len(tasks), len(parts), "parts", "encoding")
    shards_of |= zip([keys[number] for number in new], work.map(encode_part, tasks), strict=True)
    shards = _number_shards(keys, shards_of, out)
    counts = _count(shards)
    return {
        **counts,
        "bytes_per_token": round(counts["bytes"] / max(counts["tokens"], 1), 4),
        "vocabulary": tokenizer.vocabulary,
        "shards": len(shards),
        "parts": len(parts),
        "parts_shared": len(parts) - len(tasks),
    }


def _tokenizer_source(config: TokenizeConfig) -> tuple[SourceFile, ...]:
    if config.tokenizer is None:
        return ()
    path = _tokenizer_file(config.tokenizer)
    if not path.is_file():
        raise InputError(f"tokenize.tokenizer: there is no file {path}.")
    name = FILE if is_own(path) else f"foreign/{FILE}"  # another name than before 0.4.0, when its ids could be wrong
    return (SourceFile(name=name, bytes=path.stat().st_size, sha256=file_sha256(path)),)


def _tokenizer_file(place: str) -> Path:
    """Return the file that a config names, or that is in the folder that it names."""
    path = Path(place).expanduser()
    return path / FILE if path.is_dir() else path


def _headline(s: Mapping[str, Any]) -> str:
    return f"{short(s['tokens'])} tokens of {s['bytes_per_token']:.2f} bytes, vocabulary {s['vocabulary']:,}"


TOKENIZE = StepType(
    "tokenize",
    kind="tokens",
    version=1,
    config=TokenizeConfig,
    run=run,
    sources=_tokenizer_source,
    packages=("pipelines.tokens",),
    headline=_headline,
)


# The tokenizer


def make_tokenizer(config: TokenizeConfig, corpus: Corpus, listener: Listener) -> Tokenizer:
    """Load, look up or learn the tokenizer that a config names. Learning reads the corpus's training split only."""
    if config.tokenizer is not None:
        listener.progress(0, 1, "file", "reading the tokenizer")
    tokenizer = find_tokenizer(config)
    if tokenizer is None:
        try:
            tokenizer = LEARNERS[config.encoding](_training_texts(config, corpus, listener), config.vocabulary)
        except InputError as error:
            raise InputError(f"{error}{_rejections(corpus)}") from None
    return tokenizer.with_special(config.special_tokens) if config.special_tokens else tokenizer


def find_tokenizer(config: TokenizeConfig) -> Tokenizer | None:
    """Load or look up the tokenizer that a config names; return None if it has to be learnt.

    Raises:
        InputError: it is missing, or is none.
    """
    if config.tokenizer is not None:
        return load_tokenizer(_tokenizer_file(config.tokenizer))
    return None if config.encoding in LEARNERS else named_tokenizer(config.encoding)


def _rejections(corpus: Corpus) -> str:
    """Return a sentence about the records that are missing in a corpus which is too small, if there are any."""
    if not (rejected := corpus.dataset.manifest.statistics.get("rejected")):
        return ""
    records = "record was" if rejected == 1 else "records were"
    why = 'tokenmill sql "select reason, count(*) from rejected group by reason"'
    return f" {rejected:,} {records} rejected; {why} says why."


def _training_texts(config: TokenizeConfig, corpus: Corpus, listener: Listener) -> Iterator[str]:
    left = total = min(config.training_bytes, corpus.dataset.manifest.statistics["bytes_train"])
    report = Meter(listener, total, "bytes", "reading texts to learn from")
    chunks = _training_chunks(corpus)
    if config.encoding == "bpe":
        chunks = _up_to_most_unbroken(chunks, listener)
    for text, n_bytes in (row for chunk in chunks for row in zip(*map(pa.Array.to_pylist, chunk.columns), strict=True)):
        if n_bytes > left:
            break
        left -= n_bytes
        report(n_bytes)
        yield text
    listener.progress(total, total, "bytes", f"learning {config.encoding}")


def _training_chunks(corpus: Corpus) -> Iterator[pa.RecordBatch]:
    for batch in corpus.batches(["split", "text", "n_bytes"]):
        yield from (chunk.select(["text", "n_bytes"]) for split, chunk in _chunks(batch) if split == "train")


def _up_to_most_unbroken(chunks: Iterable[pa.RecordBatch], listener: Listener) -> Iterator[pa.RecordBatch]:
    """Yield the first chunk, and more as long as their pieces are few enough to learn from."""
    unbroken = n_bytes = 0
    for chunk in chunks:
        unbroken += unbroken_bytes(chunk["text"])
        if n_bytes and unbroken > MOST_UNBROKEN:
            listener.warn(f"The vocabulary is learnt from the first {size(n_bytes)}, since their words hardly repeat.")
            return
        n_bytes += pc.sum(chunk["n_bytes"]).as_py()
        yield chunk


# One part


@dataclass(frozen=True)
class EncodePart:
    """The task of encoding one part of the corpus.

    Attributes:
        part: Parquet file of documents.
        tokenizer: `tokenizer.json` to encode with.
        shard_tokens: most tokens in a shard.
        threads: threads that encode.
        folder: where the shards are written.
    """

    part: Path
    tokenizer: Path
    shard_tokens: int
    threads: int
    folder: Path


def encode_part(task: EncodePart) -> list[Shard]:
    """Encode a part into shards, unless a killed run has already done it."""
    if (shards := read_done(task.folder)) is not None:
        return [Shard(*shard) for shard in shards]
    task.folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _load_cached(task.tokenizer, task.tokenizer.stat().st_mtime_ns)
    writers = {split: ShardWriter(task.folder, split, tokenizer, task.shard_tokens) for split in SPLITS}
    with ThreadPoolExecutor(task.threads) as pool:  # Arrow, NumPy and tiktoken release the interpreter
        map_ = pool.map if task.threads > 1 else map  # this thread would only wait for a single other one
        chunks = ((split, chunk) for batch in read_batches(task.part, COLUMNS) for split, chunk in _chunks(batch))
        while ahead := list(islice(chunks, 4 * task.threads)):
            encoded = map_(lambda each: tokenizer.encode_documents(each[1]["text"]), ahead)
            for (split, chunk), (ids, lengths) in zip(ahead, encoded, strict=True):
                writers[split].add(chunk, ids, lengths)
    shards = [shard for writer in writers.values() for shard in writer.close()]
    mark_done(task.folder, shards)
    return shards


COLUMNS = ("doc_id", "split", "text", "n_bytes")


@lru_cache(maxsize=2)
def _load_cached(path: Path, _changed: int) -> Tokenizer:
    return load_tokenizer(path)


def _chunks(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield slices of one split and about `CHUNK` bytes each."""
    for split in SPLITS:
        documents = batch.filter(pc.equal(batch["split"], split))
        if len(documents):
            ends = np.cumsum(documents["n_bytes"].to_numpy())
            cuts = np.flatnonzero(np.diff(ends // CHUNK, prepend=0)) + 1
            bounds = np.unique(np.concatenate([[0], cuts, [len(documents)]]))
            for start, end in pairwise(bounds):
                yield split, documents.slice(start, end - start)


# All parts


def _part_keys(corpus: Corpus, tokenizer_digest: str, config: TokenizeConfig) -> list[str]:
    """Return a key for each part: equal keys have equal shards."""
    files = corpus.dataset.manifest.files
    digests = [files[f"documents/{part.name}"].sha256 for part in corpus.parts]
    values = [[TOKENIZE.version, digest, tokenizer_digest, config.shard_tokens] for digest in digests]
    return [hashlib.sha256(canonical_json(value).encode()).hexdigest() for value in values]


def _previous_shards(work: StepContext) -> dict[str, list[Shard]]:
    """Return the shards of the previous version by the key of their part."""
    if not (previous := work.usable_previous(PARTS)):
        return {}
    with work.refusing(previous):
        parts = json.loads(previous.file(PARTS).read_text())
        return {key: [Shard(str(previous.file(name)), *rest) for name, *rest in shards] for key, shards in parts}
    return {}


def _number_shards(keys: Sequence[str], shards_of: Mapping[str, list[Shard]], out: Path) -> list[Shard]:
    """Link the shards of all parts into the output, numbered by split, and list them by part in `parts.json`."""
    placed = [(number, shard) for number, key in enumerate(keys) for shard in shards_of[key]]
    placed.sort(key=lambda each: SPLITS.index(each[1].split))
    by_part: list[list[Shard]] = [[] for _ in keys]
    for place, (number, shard) in enumerate(placed):
        name = f"tokens-{place:05d}.arrow"
        link_or_copy(Path(shard.path), out / name)
        by_part[number].append(shard._replace(path=name))
    write_json(out / PARTS, list(zip(keys, by_part, strict=True)))
    return [shard for _, shard in placed]


def _count(shards: Sequence[Shard]) -> dict[str, int]:
    """Return the numbers of documents, tokens and bytes, in all and by split."""
    counts = {}
    for suffix, splits in (("", SPLITS), *((f"_{split}", (split,)) for split in SPLITS)):
        some = [shard for shard in shards if shard.split in splits]
        for name in ("documents", "tokens", "bytes"):
            counts[f"{name}{suffix}"] = sum(getattr(shard, name) for shard in some)
    return counts
