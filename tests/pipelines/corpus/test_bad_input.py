"""What people have in their folders: every kind of damage costs what is damaged, and is named."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.documents import Corpus
from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE

pytestmark = pytest.mark.integration

Build = Callable[..., Dataset]

ROOT = Path(__file__).parents[3]
TEXT = "The mill by the river grinds slowly, but it grinds all day. "


def parquet(*names: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table([[TEXT * 100]] * len(names), names=list(names)), out)
    return out.getvalue()


def arrow_stream(*names: str) -> bytes:
    out = io.BytesIO()
    table = pa.table([[TEXT]] * len(names), names=list(names))
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


# File, content, texts that are kept of it, and (place, reason) of what is not.
DAMAGED: dict[str, tuple[str, bytes, list[str], list[tuple[str, str]]]] = {
    "an empty file": ("a.txt", b"", [], [("a.txt line 1", "empty")]),
    "an empty table": ("a.parquet", b"", [], [("a.parquet file", "")]),
    "binary named .txt": ("a.txt", random.Random(0).randbytes(5000), [], [("a.txt file", "binary, not text")]),
    "UTF-16 without a mark": ("a.txt", (TEXT * 3).encode("utf-16-le"), [(TEXT * 3).strip()], []),
    "invalid UTF-8 in the middle": (
        "a.txt",
        "naïve ".encode() + TEXT.encode() * 2000 + b"\xc3\x28" + TEXT.encode() * 2000,
        [],
        [("a.txt line 1", "bytes outside the encoding")],
    ),
    "broken gzip": (
        "a.jsonl.gz",
        gzip.compress("".join(json.dumps({"text": f"{i} one"}) + "\n" for i in range(3)).encode())[:-8],
        [f"{i} one" for i in range(3)],
        [("a.jsonl.gz after line 3", "Compressed file ended before the end-of-stream marker was reached")],
    ),
    "truncated Parquet": ("a.parquet", parquet("text")[:-20], [], [("a.parquet file", "Parquet")]),
    "a bad line of JSON Lines": (
        "a.jsonl",
        b'{"text": "one"}\n{"text": "tw\n{"text": "three"}\n',
        ["one", "three"],
        [("a.jsonl line 2", "not JSON")],
    ),
    "a column whose name is no text, JSON Lines": (
        "a.jsonl",
        b'{"text": "one"}\n{"\\ud800": "two"}\n',
        ["one"],
        [("a.jsonl line 2", "no column 'text'; there are \ufffd")],
    ),
    "a column whose name is no text, CSV": (
        "a.csv",
        b"Titel,\xdcberschrift\na,b\n",
        [],
        [("a.csv line 2", "no column 'text'; there are Titel, Überschrift")],
    ),
    "duplicate column names, CSV": (
        "a.csv",
        b"text,text\na,b\n",
        [],
        [("a.csv file", "two columns are called 'text'")],
    ),
    "duplicate column names, Parquet": (
        "a.parquet",
        parquet("text", "text"),
        [],
        [("a.parquet file", "two columns are called 'text'")],
    ),
    "duplicate column names, Arrow": (
        "a.arrow",
        arrow_stream("text", "text"),
        [],
        [("a.arrow file", "two columns are called 'text'")],
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_bad_records_are_rejected_with_place_and_good_ones_kept(build: Build, tmp_path: Path, damage: str) -> None:
    name, content, kept, problems = DAMAGED[damage]
    root = tmp_path / "texts"
    root.mkdir()
    (root / name).write_bytes(content)
    (root / "good.txt").write_text("good")
    corpus = Corpus(build(INGEST, {"sources": [{"uri": str(root)}]}))
    assert [row["text"] for part in corpus.parts for row in read_rows(part)] == [*kept, "good"]
    rejected = [(row["location"], row["reason"]) for row in read_rows(corpus.rejected)]
    assert [place for place, _ in rejected] == [place for place, _ in problems]
    assert all(
        said.startswith(reason) or reason in said for (_, said), (_, reason) in zip(rejected, problems, strict=True)
    )


def test_metadata_may_hold_values_that_json_cannot(build: Build, tmp_path: Path) -> None:
    lines = b'{"text": "one", "by": "M\xffhle", "n": 1}\n{"text": "two", "by": "\\udc00", "n": %d}\n' % 10**30
    (tmp_path / "a.jsonl").write_bytes(lines)
    source = {"uri": str(tmp_path / "a.jsonl"), "metadata": ["by", "n"]}
    (part,) = Corpus(build(INGEST, {"sources": [source]})).parts
    kept = [json.loads(row["metadata"]) for row in read_rows(part)]
    assert kept == [{"by": "M\ufffdhle", "n": 1}, {"by": "\ufffd", "n": 10**30}]


def test_broken_row_among_examples_is_rejected(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\none,a\nM\xffhle\n")
    made = build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "a.csv"), "label": "label"}]})
    (row,) = read_rows(made.file("rejected.parquet"))
    assert (row["location"], row["text"]) == ("a.csv line 3", "M\ufffdhle")
    (tmp_path / "a.csv").write_bytes(b"text,k\xfcnd\none,a\n")
    with pytest.raises(InputError, match="no column 'label'; there are text, künd"):
        build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "a.csv"), "label": "label"}]})


def test_loops_and_links_out_of_a_folder_are_rejected(build: Build, tmp_path: Path) -> None:
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    (root / "deep/good.txt").write_text("good")
    (root / "deep/loop").symlink_to(root)
    (root / "itself.txt").symlink_to(root / "itself.txt")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "out").symlink_to(tmp_path)
    corpus = Corpus(build(INGEST, {"sources": [{"uri": str(root)}]}))
    assert [row["text"] for part in corpus.parts for row in read_rows(part)] == ["good"]
    rejected = [(row["location"], row["reason"]) for row in read_rows(corpus.rejected)]
    assert rejected == [("itself.txt", "not a regular file"), ("out.txt", "a link that leaves the folder")]


def test_spelled_end_of_text_is_encoded_as_text(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one <|endoftext|> two")
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.txt")}], "split": {"validation": 0, "test": 0}})
    tokens = Tokens(build(TOKENIZE, {"encoding": "gpt2"}, corpus=corpus))
    ids = tokens.flat(0).tolist()
    assert ids.count(tokens.tokenizer.end_of_text) == 1 and ids[-1] == tokens.tokenizer.end_of_text
    assert tokens.tokenizer.decode(ids[:-1]) == "one <|endoftext|> two"


# Too much of it


PEAK = """
import re, sys
from pathlib import Path
from pipelines.corpus.readers.records import ReadOptions
from pipelines.corpus.readers.look import read_file
found = {}
with open(sys.argv[1], "rb") as file:
    for each in read_file(file, sys.argv[1], ReadOptions()):
        found.setdefault((type(each).__name__, getattr(each, "reason", "")), []).append(each.location)
for (kind, reason), places in found.items():
    print(kind, len(places), places[0], reason)
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1000)
"""


@pytest.mark.parametrize(
    ("name", "before", "behind", "said"),
    [
        (
            "a.jsonl",
            b'{"text": "before"}\n{"text": "',
            b'"}\n{"text": "behind"}\n',
            ["Record 2 line 1 ", "Bad 1 line 2 a line of more than 67,108,864 bytes"],
        ),
        ("a.csv", b"text\nbefore\n", b"\nbehind\n", ["Record 2 line 2 ", "Bad 1 line 3 a row of more than"]),
        ("a.json", b'{"text": "', b'"}', ["Bad 1 record 1 not JSON: "]),
        ("a.txt", b"before", b"behind", ["Record 51 line 1 "]),
    ],
)
def test_500_megabyte_line_needs_bounded_memory(
    tmp_path: Path, name: str, before: bytes, behind: bytes, said: list[str]
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(before + b"x" * 2_000_000)  # the beginning tells binary from text
        file.truncate(500_000_000)  # a hole, which takes no space and reads as zeros
        file.seek(500_000_000)
        file.write(behind)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.splitlines()
    assert len(done) == len(said) + 1
    assert all(line.startswith(start) for line, start in zip(done, said, strict=False)), done
    assert int(done[-1]) < 450  # MB, of which Python and its packages take some 100


FILL = """
import json, os, sys
from pathlib import Path
from pipelines.errors import InputError
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.store.step import StepContext
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.tokens.tokenize import TokenizeConfig

disk, source = Path(sys.argv[1]), sys.argv[2]
store = Store(disk / "data")

def attempt(type_, config, room, **inputs):
    space = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(max(space.f_bavail * space.f_frsize - room, 0)))
    step = type_.using("test", config, inputs)
    run = lambda out, scratch: type_.run(inputs, config, out, StepContext(scratch))
    try:
        store.build(step, run)
    except InputError as error:
        said = str(error)
    else:
        said = "no error"
    left = sorted(path.name for path in store.root.glob("[!.]*/*")), os.listdir(store.root / ".staging")
    (disk / "ballast").unlink()
    made = store.build(step, run)
    print(json.dumps([said, left, store.verify(made), made.manifest.statistics["documents"]]))
    return made

corpus = attempt(INGEST, IngestConfig(sources=[{"uri": source}]), 300_000)
attempt(TOKENIZE, TokenizeConfig(encoding="gpt2"), 7_000_000, corpus=corpus)
"""


def test_full_disk_is_one_sentence_and_next_run_resumes(
    tmp_path: Path, on_small_disk: Callable[..., list[Any]]
) -> None:
    source = tmp_path / "a.jsonl"
    rng = np.random.default_rng(0)
    source.write_text("".join(json.dumps({"text": rng.bytes(400).hex()}) + "\n" for _ in range(2000)))
    results = on_small_disk(FILL, source)
    assert [(problems, documents) for _, _, problems, documents in results] == [([], 2000)] * 2
    for (said, (published, staged), *_), number in zip(results, (0, 1), strict=True):
        assert said.startswith("The disk is full where ") and "free some space" in said and "\n" not in said
        assert len(published) == number and staged == []
