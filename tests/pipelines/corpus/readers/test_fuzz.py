"""Damaged and hostile files among good ones, as a whole ingest in a process of its own meets them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import (
    GOOD,
    LARGE_DICTIONARY,
    LINE,
    SENTENCE,
    as_ipc,
    as_parquet,
    damaged,
    pdf_of_forms,
    pdf_of_pages,
    repeated,
    warc_record,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import PACK, read

from pipelines.corpus.readers.records import Bad, Record

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[4]
BETWEEN = ("a.txt", "m.html", "z.jsonl")  # good files among damaged ones
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
    assert {name for name in BETWEEN if any(place.startswith(f"{name} ") for place in found["kept"])} == set(BETWEEN)
    assert "good.py entry good" in found["kept"]
    assert [reason for _, reason in found["rejected"] if len(reason) > 600 or "\n" in reason] == []
    assert sum(found["peaks"]) < 1500  # MB, of which good files take some 400
    return found


def test_damaged_files_cost_only_themselves(tmp_path: Path) -> None:
    ingest(tmp_path, dict(damaged(1, 14)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 5))
def test_many_damaged_files_cost_only_themselves(tmp_path: Path, seed: int) -> None:
    ingest(tmp_path, dict(damaged(seed, 120)))


@st.composite
def edited(draw: st.DrawFn, content: bytes, first: int = 0, last: int | None = None) -> bytes:
    """Return content of which some bytes between two places are replaced, inserted or missing, or any bytes."""
    if first == 0 and draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=300))
    last = len(content) if last is None else last
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(first, max(last - 1, first)))
        new = draw(st.binary(max_size=8) | st.sampled_from([b'"', b"\0", b"\n", b"\r", b"\xff", b"{", b"]", b"\\"]))
        old = len(new) if last < len(content) else draw(st.integers(0, 8))  # of the same size, before a footer
        content = content[:at] + new[: last - at] + content[at + min(old, last - at) :]
    return content


@pytest.mark.parametrize("extension", GOOD)
def test_any_bytes_give_records_or_rejections(extension: str) -> None:
    check_any_bytes(extension, 8)


@pytest.mark.slow
@pytest.mark.parametrize("extension", GOOD)
def test_many_bytes_give_records_or_rejections(extension: str) -> None:
    check_any_bytes(extension, 200)


def check_any_bytes(extension: str, examples: int) -> None:
    @given(st.data())
    @settings(max_examples=examples, deadline=timedelta(seconds=20), suppress_health_check=list(HealthCheck))
    def check(data: st.DataObject) -> None:
        found = read(data.draw(edited(GOOD[extension])), f"a.{extension}")
        assert found and all(isinstance(each, Record | Bad) for each in found)
        assert len({each.location for each in found}) == len(found), "each has a place of its own"

    check()


LINES = st.lists(st.sampled_from([b'{"text": "a"}', b'"b", c', b"1,2", b'1,"', b"", b" ", b'"\\"', b"\0,\xff", b"[]"]))


@given(LINES)
@settings(deadline=None)
def test_each_line_of_json_lines_is_a_record_or_rejected(lines: list[bytes]) -> None:
    found = read(b"\n".join(lines), "a.jsonl", format="jsonl", encoding="utf-8")
    expected = [f"line {number}" for number, line in enumerate(lines, 1) if line.strip()]
    assert [each.location for each in found] == (expected or ["file"])


@given(LINES, st.sampled_from(["fields", "letters", "escaped"]))
@settings(deadline=None)
def test_each_line_of_a_table_is_in_a_record_or_rejected(lines: list[bytes], quotes: str) -> None:
    found = read(b"\n".join([b"a,b", *lines]), "a.csv", encoding="utf-8", quotes=quotes)
    begins = [int(each.location.removeprefix("line ")) for each in found if each.location != "file"]
    assert begins == sorted(set(begins))
    for record, start, after in zip(found, begins, [*begins[1:], len(lines) + 2], strict=False):
        between = [line for line in lines[start - 1 : after - 2] if line.strip()]
        if isinstance(record, Bad) or quotes == "letters":
            assert between == [], "the next record begins on the next line"
        else:
            assert sum(value.count("\n") for value in record.fields.values()) >= len(between)


@pytest.mark.parametrize("extension", ["parquet", "arrow"])
def test_rows_of_damaged_columns_add_up(extension: str) -> None:
    rows, out = 60, io.BytesIO()
    table = pa.table({"n": range(rows), "text": [f"row {number}" * (number % 5) for number in range(rows)]})
    if extension == "parquet":
        pq.write_table(table, out, row_group_size=20, compression="snappy")
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(out, table.schema, options=options) as writer:
            writer.write_table(table, 20)
    content = out.getvalue()
    footer = len(content) - int.from_bytes(content[-10:-6] if extension == "arrow" else content[-8:-4], "little") - 12

    @given(st.data())
    @settings(max_examples=25, deadline=timedelta(seconds=20), suppress_health_check=list(HealthCheck))
    def check(data: st.DataObject) -> None:
        found = read(data.draw(edited(content, 8, footer)), f"a.{extension}")
        n_lost = sum(each.lost_rows or each.location.startswith("row") for each in found if isinstance(each, Bad))
        n_read = sum(isinstance(each, Record) for each in found)
        unknown = any(isinstance(each, Bad) and not each.lost_rows and "row" not in each.location for each in found)
        assert n_read + n_lost == rows or (unknown and n_read + n_lost < rows)

    check()


def bombs() -> dict[str, bytes]:
    """Return files that are rejected as a whole."""
    nulls = pa.nulls(2_000_000_000)
    offsets = pa.array([0, len(nulls)], pa.int32())
    page = b"BT /F 12 Tf 10 700 Td %s ET" % (LINE * 20_000)
    entities = b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
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
        "dictionary.txt.xz": LARGE_DICTIONARY,
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
