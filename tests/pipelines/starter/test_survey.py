"""A survey of somebody's text: estimates from the beginning of files, and kinds of files."""

import json

import pytest
from somebodys_text import PARAGRAPHS, write_mixture, write_notes

from pipelines.errors import InputError
from pipelines.starter.survey import name_of, survey

LINES = [json.dumps({"body": f"{PARAGRAPHS[n % 90]} {n}", "id": n}) for n in range(9000)]


def test_size_of_a_large_file_is_estimated(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(LINES))
    (kind,) = survey(str(tmp_path / "a.jsonl")).kinds
    size = sum(len(json.loads(line)["body"].encode()) for line in LINES)
    assert 0.8 < kind.text_bytes / size < 1.2
    assert 0.8 < kind.records / len(LINES) < 1.2


def test_files_are_grouped_by_what_they_hold(tmp_path):
    found = survey(str(write_mixture(tmp_path)))
    assert {kind.extension: len(kind.files) for kind in found.kinds} == {"md": 30, "csv": 1, "jsonl": 1}
    assert [(kind.extension, kind.problem) for kind in found.unread] == [("png", "no reader for .png")]


def test_tables_with_other_columns_are_kinds_of_their_own(tmp_path):
    for name, column in (("a", "text"), ("b", "body"), ("c", "body")):
        rows = "".join(f'"{text[:80].replace(chr(34), "")}"\n' for text in PARAGRAPHS[:20])
        (tmp_path / f"{name}.csv").write_text(f"{column}\n{rows}")
    kinds = {kind.columns.text: [file.name for file in kind.files] for kind in survey(str(tmp_path)).kinds}
    assert kinds == {"text": ["a.csv"], "body": ["b.csv", "c.csv"]}


def test_name_of_a_text_is_its_last_part(tmp_path):
    notes = write_notes(tmp_path)
    assert name_of(str(notes)) == "my notes"
    assert name_of(f"{notes}/*.md") == "my notes"
    assert name_of("https://example.org/a.jsonl.gz") == "a"


def test_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="names no file"):
        survey(str(tmp_path))
