"""Damaged and hostile files among good ones, as a whole ingest in a process of its own meets them."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hostile import LINE, SENTENCE, as_ipc, as_parquet, damaged, pdf_of_forms, pdf_of_pages, repeated, warc_record
from reading import PACK

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[4]
GOOD = ("a.txt", "m.html", "z.jsonl")
INGEST = """
import json, re, resource, sys
from pathlib import Path
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.corpus.readers import processes
from pipelines.store.step import StepContext
from pipelines.store.store import Store

root = Path(sys.argv[1])
config = IngestConfig(sources=[{"uri": str(root / "texts")}, {"uri": str(root / "dicts"), "format": "python-dict"}])
step = INGEST.using("test", config, {})
run = lambda out, scratch: INGEST.run({}, config, out, StepContext(scratch))
made = Store(root / "data").build(step, run)
rows = [row for part in sorted((made.path / "documents").iterdir()) for row in read_rows(part, ["location"])]
kept = [row["location"] for row in rows]
rejected = [[row["location"], row["reason"]] for row in read_rows(made.file("rejected.parquet"))]
processes.end_readers()
here = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
peaks = [here // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024]
print(json.dumps({"kept": kept, "rejected": rejected, "peaks": peaks}))
"""


def ingest(root: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """Ingest files between good ones, and return what was kept, what was rejected and the peaks of memory."""
    for folder in ("texts", "dicts"):
        (root / folder).mkdir(parents=True)
    for name, content in files.items():
        (root / ("dicts" if ".py" in name else "texts") / name).write_bytes(content)
    (root / "texts/a.txt").write_text("good text")
    (root / "texts/m.html").write_text(f"<html><body><article><p>{SENTENCE * 9}</p></article></body></html>")
    (root / "texts/z.jsonl").write_text('{"text": "good line"}\n')
    (root / "dicts/good.py").write_text("topics = {'good': 'entry'}\n")
    done = subprocess.run(
        [sys.executable, "-c", INGEST, str(root)], capture_output=True, text=True, cwd=ROOT, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {name for name in GOOD if any(place.startswith(f"{name} ") for place in found["kept"])} == set(GOOD)
    assert "good.py entry good" in found["kept"]
    assert all(len(reason) < 600 and "\n" not in reason for _, reason in found["rejected"])
    assert sum(found["peaks"]) < 1500  # MB, of which good files take some 400
    return found


def test_damaged_files_cost_only_themselves(tmp_path: Path) -> None:
    ingest(tmp_path, dict(damaged(1, 14)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_damaged_files_cost_only_themselves(tmp_path: Path, seed: int) -> None:
    ingest(tmp_path, dict(damaged(seed, 120)))


def bombs() -> dict[str, bytes]:
    """Return files that are rejected as a whole."""
    nulls = pa.nulls(2_000_000_000)
    offsets = pa.array([0, len(nulls)], pa.int32())
    page = b"BT /F 12 Tf 10 700 Td %s ET" % (LINE * 20_000)
    entities = b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    large = [{"id": lzma.FILTER_LZMA2, "dict_size": 1536 << 20}]
    return {
        "dictionary.parquet": as_parquet(repeated("x" * (4 << 20), 200_000)),
        "pages.parquet": as_parquet(repeated("x" * (1 << 18), 200_000), store_schema=False),
        "dictionary.arrow": as_ipc(repeated("x" * (1 << 18), 200_000)),
        "rows.arrow": as_ipc(nulls),
        "rows.feather": as_ipc(nulls, "other", stream=True),
        "run.arrow": as_ipc(pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array(["x"]))),
        "fixed.arrow": as_ipc(pa.FixedSizeListArray.from_arrays(nulls, len(nulls))),
        "list.arrow": as_ipc(pa.ListArray.from_arrays(offsets, nulls)),
        "names.parquet": as_parquet(pa.nulls(400_000), "z" * 2_000_000),
        "flow.yaml": b"conversations: [" + b"a," * 1_000_000 + b"b]\n",
        "flow.yaml.gz": PACK[".gz"](b"conversations: [" + b"a," * 9_000_000 + b"b]\n"),
        "deep.yaml": b"- " * 100_000,
        "deep.json": b"[" * 1_000_000,
        "deep-python.py": b"t = {'a': " + b"-" * 200_000 + b"1}\n",
        "many-python.py": b"t = {" + b"1:1," * 3_900_000 + b"}\n",
        "shared.pdf": pdf_of_pages(page, 2_000),
        "cycle.pdf": pdf_of_pages(page, 1).replace(b"[5 0 R ]", b"[2 0 R ]"),
        "forms.pdf": pdf_of_forms(5_000, 20_000),
        "long.warc": warc_record(
            PACK[".gz"](b"a" * (80 << 20)), headers="Content-Type: text/plain\r\nContent-Encoding: gzip\r\n"
        ),
        "dictionary.txt.xz": lzma.compress(b"a" * 1000, filters=large),
        "columns.csv": ",".join(f"c{number}" for number in range(1_000_000)).encode()
        + b"\n"
        + b"1," * 999_999
        + b"1\n",
        "entities.xhtml": b"<!DOCTYPE html [" + entities + b"]><html><body><p>&j;</p></body></html>",
        "deep.html": b"<div>" * 200_000 + b"text",
    }


@pytest.mark.slow
def test_bombs_are_rejected_in_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    ingest(tmp_path / "nothing", {})
    start = time.monotonic() - began
    for name, content in bombs().items():
        began = time.monotonic()
        found = ingest(tmp_path / name, {name: content})
        seconds = time.monotonic() - began - start
        places = [place for place in found["kept"] if place.startswith(name)]
        print(f"{name}: {seconds:.1f} s, {found['peaks']} MB, {found['rejected'][-1:]}")
        assert not places or name == "entities.xhtml", places
        assert seconds < 30, name  # of a machine that may be busy; ten on a quiet one
