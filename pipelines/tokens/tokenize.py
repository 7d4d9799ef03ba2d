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
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.documents import SPLITS, Corpus
from pipelines.corpus.parquet import read_batches
from pipelines.errors import InputError
from pipelines.numbers import short
from pipelines.store.dataset import Dataset
from pipelines.store.files import file_sha256, link_or_copy, write_json
from pipelines.store.manifest import SourceFile
from pipelines.store.partitions import mark_done, read_done
from pipelines.store.step import StepContext, StepType, canonical_json, map_in_turn
from pipelines.tokens.shards import Shard, ShardWriter
from pipelines.tokens.tokenizer import FILE, Tokenizer
from pipelines.tokens.tokenizers import TokenizeConfig, load_tokenizer, make_tokenizer

PARTS = "parts.json"


CHUNK = 1 << 19  # bytes of text encoded in one call


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
    work.listener.progress(len(parts) - len(tasks), len(parts), "parts", "encoding")
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


def _headline(s: Mapping[str, Any]) -> str:
    return f"{short(s['tokens'])} tokens of {s['bytes_per_token']:.2f} bytes, vocabulary {s['vocabulary']:,}"


TOKENIZE = StepType(
    "tokenize",
    kind="tokens",
    version=1,
    config=TokenizeConfig,
    run=run,
    sources=_tokenizer_file,
    packages=("pipelines.tokens",),
    headline=_headline,
)


# One part


@dataclass(frozen=True)
class Task:
    """A part of the corpus to encode, with what, and where to."""

    part: Path
    tokenizer: Path
    shard_tokens: int
    threads: int
    folder: Path


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
