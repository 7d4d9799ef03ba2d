from __future__ import annotations

import io
import json
import sys

import pytest
from reading import PACK, ROWS, WRITTEN, problems, read, texts

from pipelines.corpus.readers.formats import formats_of, read_here
from pipelines.corpus.readers.look import read_file
from pipelines.corpus.readers.records import ReadOptions, Record
from pipelines.errors import InputError

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("extension", WRITTEN)
def test_every_format_gives_its_records_packed_or_not(extension: str, packing: str) -> None:
    found = read(PACK[packing](WRITTEN[extension]), f"rows.{extension}{packing}")
    assert [record.fields for record in found if isinstance(record, Record)] == ROWS
    assert not problems(found)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.json", "a.pdf", "a.warc"])
def test_garbage_is_one_problem(name: str) -> None:
    assert len(problems(read(b"garbage, nothing but garbage", name))) == 1


@pytest.mark.parametrize("extension", ["txt", "jsonl", "csv", "json", "parquet", "yml", "html", "txt.gz"])
def test_empty_file_gives_no_text(extension: str) -> None:
    assert not "".join(texts(read(b"", f"a.{extension}")))


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("extension", ["txt", "md", "py", "rs", "sql", "html", "yml"])
def test_formats_without_columns_may_be_packed(extension: str, packing: str) -> None:
    sentence = "The mill by the river grinds slowly, but it grinds well and it grinds all day. " * 5
    content = {
        "html": f"<html><body><article><p>{sentence}</p></article></body></html>",
        "yml": f"conversations:\n- [{json.dumps(sentence)}, Good]\n",
    }.get(extension, sentence)
    (record,) = read(PACK[packing](content.encode()), f"a.{extension}{packing}")
    assert isinstance(record, Record)
    said = record.fields["messages"][0] if extension == "yml" else record.fields["text"]
    assert said.strip() == sentence.strip()


def test_endless_nesting_is_a_problem() -> None:
    for name in ("a.jsonl", "a.json", "a.yml"):
        assert problems(read(b"[" * 100_000, name))


def test_equal_damage_has_equal_words() -> None:
    first, second = (read(b"topics = {'a': f()}", "a.py", format="python-dict") for _ in range(2))
    assert problems(first) == problems(second) and "0x" not in problems(first)[0][1]


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), OSError(28, "No space left on device")])
def test_machine_errors_are_raised(error: OSError) -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            raise error

        readinto = read = read1  # type: ignore[assignment]

    with pytest.raises(type(error)):
        list(read_file(io.BufferedReader(Broken(b"text")), "a.txt", ReadOptions()))


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(InputError, match=r"a.html needs the package trafilatura; pip install 'tokenmill\[formats\]'"):
        list(read_here(io.BytesIO(b"<p>text"), "a.html", ReadOptions()))


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="known are text, markdown"):
        formats_of("a.txt", ReadOptions(format="docx"))
    with pytest.raises(KeyError):
        formats_of("a.docx", ReadOptions())
    assert problems(read(b"PK", "a.docx.gz")) == [("file", "no reader for .docx")]
