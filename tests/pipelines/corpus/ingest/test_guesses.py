"""What people see of guesses: columns, statistics, lines of the summary and warnings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.corpus.documents import GUESSES, Corpus
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]
FRENCH = "Le moulin près de la rivière tourne déjà, même s'il est tôt. L'été, la farine est bientôt prête. "
NAMES = [field.name for field in GUESSES]


def rows_of(corpus: Dataset) -> list[dict[str, Any]]:
    return [row for part in Corpus(corpus).parts for row in pq.read_table(part).to_pylist()]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_bytes(f"{FRENCH * 9} {number}".encode("cp1252"))
    (folder / "note.txt").write_bytes("Ça va à Nîmes".encode("cp1252"))
    (folder / "plain.txt").write_text("Mühle")
    (folder / "packed.txt").write_bytes(gzip.compress(b"packed"))
    (folder / "table.csv").write_bytes(f'text;n\n"{FRENCH * 9}";1\n'.encode("cp1252"))
    return folder


def test_guesses_are_columns_statistics_lines_and_warnings(build: Build, texts: Path, warnings: Any) -> None:
    corpus = build(INGEST, {"sources": [{"uri": str(texts)}]})
    rows = {row["location"].split()[0]: tuple(row[name] for name in NAMES) for row in rows_of(corpus)}
    assert rows == {
        **{f"{number}.txt": ("text", None, "cp1252", None, None) for number in range(3)},
        "note.txt": ("text", None, "cp1252", None, "encoding"),
        "plain.txt": ("text", None, "utf-8", None, None),
        "packed.txt": ("text", "gz", "utf-8", None, None),
        "table.csv": ("csv", None, "cp1252", "fields", None),
    }
    statistics = corpus.manifest.statistics
    assert {name: count for name, count in statistics.items() if name.startswith("guessed_")} == {
        "guessed_compression_gz": 1,
        "guessed_delimiter_semicolon": 1,
        "guessed_encoding_cp1252": 5,
    }
    assert INGEST.details
    assert INGEST.details(corpus).splitlines()[1:] == [
        "1 file unpacked as .gz, guessed",
        "1 file divided at each semicolon, guessed",
        "5 files read as Windows-1252, guessed",
    ]
    assert warnings.sentences == [
        "note.txt: read as Windows-1252, a doubtful guess; the key 'encoding' of the source overrides it."
    ]


def test_keys_leave_nothing_to_guess(build: Build, texts: Path, warnings: Any) -> None:
    source = {"uri": str(texts / "*.txt"), "encoding": "windows-1252", "compression": "none"}
    (texts / "packed.txt").unlink()
    corpus = build(INGEST, {"sources": [source]})
    assert not [name for name in corpus.manifest.statistics if name.startswith("guessed_")] and not warnings.sentences
    assert INGEST.details and len(INGEST.details(corpus).splitlines()) == 1
    assert {row["encoding"] for row in rows_of(corpus)} == {"cp1252"}


def test_rejected_rows_say_how_their_file_was_read(build: Build, texts: Path) -> None:
    (texts / "again.txt").write_bytes((texts / "0.txt").read_bytes())
    corpus = build(INGEST, {"sources": [{"uri": str(texts)}]})
    (row,) = pq.read_table(Corpus(corpus).rejected).to_pylist()
    assert (row["reason"], row["format"], row["encoding"]) == ("exact duplicate", "text", "cp1252")


def test_large_file_is_guessed_once_for_all_its_pieces(build: Build, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"plain {number}"}) for number in range(500)]
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    config = {"sources": [{"uri": str(tmp_path / "a.txt"), "format": "jsonl"}], "partition_bytes": 2000}
    assert build(INGEST, config).manifest.statistics["parts"] > 4
    lines[300] = json.dumps({"text": FRENCH}, ensure_ascii=False)
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines), "cp1252")
    corpus = build(INGEST, config)
    assert corpus.manifest.statistics["guessed_encoding_cp1252"] == 1
    assert {row["encoding"] for row in rows_of(corpus)} == {"cp1252"}
    assert FRENCH.strip() in {row["text"] for row in rows_of(corpus)}


def test_file_without_a_known_extension_is_read_by_its_bytes(build: Build, texts: Path) -> None:
    (texts / "0.txt").rename(texts / "a.unknown")
    pq.write_table(pq.read_table(Corpus(build(INGEST, {"sources": [{"uri": str(texts)}]})).parts[0]), texts / "b.dat")
    corpus = build(INGEST, {"sources": [{"uri": str(texts)}], "partition_bytes": 1 << 20})
    (row,) = (row for row in pq.read_table(Corpus(corpus).rejected).to_pylist() if "a.unknown" in row["location"])
    assert row["reason"] == "no reader for .unknown"
    assert corpus.manifest.statistics["guessed_format_parquet"] == 1
