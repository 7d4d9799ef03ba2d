"""`tokenmill classify`: what it writes for a text, a file and standard input."""

import io
import json
from types import SimpleNamespace

import pytest
import torch

from flows.commands import classify as module
from flows.commands.classify import classify
from flows.tracking import registry
from gpt.classifier import Classifier, Decision
from gpt.config import gpt_config
from gpt.model import GPT
from gpt.weights import save_classifier
from pipelines.errors import InputError
from pipelines.models.language_model import open_model
from pipelines.tokens.characters import count_characters

TOKENIZER = count_characters(["abcdefgh \n"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of a classifier with so low a threshold that every text is spam."""
    torch.manual_seed(0)
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=16))
    save_classifier(Classifier(gpt, 2), Decision(("ham", "spam"), "spam", 0.01), tmp_path)
    TOKENIZER.save(tmp_path)
    monkeypatch.setattr(registry, "find_model", lambda reference, task: SimpleNamespace(path=tmp_path))
    return tmp_path


def test_one_text_gets_label_and_probability_without_speed(folder, capsys):
    classify("abc\nabc")
    printed = capsys.readouterr()
    label, probability, text = printed.out.rstrip("\n").split("\t")
    assert label == "spam" and text == "abc abc" and printed.err == ""
    assert probability == f"{open_model(folder).probabilities(['abc' + chr(10) + 'abc'])[0, 1]:.4f}"


def test_lines_of_standard_input_are_answered_in_order(folder, capsys, monkeypatch):
    monkeypatch.setattr(module, "TEXTS_PER_BATCH", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("abc\r\n\ncab, é"))
    classify(every=True, as_json=True)
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["text"] for row in rows] == ["abc", "", "cab, é"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows)
    assert all(row["label"] == "spam" and row["probability"] == row["probabilities"]["spam"] for row in rows)
    assert printed.err.startswith("3 texts in ") and printed.err.endswith(" a second\n")


def test_all_labels_are_listed_likeliest_first(folder, capsys):
    classify("abc", every=True)
    label, cell, _ = capsys.readouterr().out.split("\t")
    values = [float(each.split("=")[1]) for each in cell.split(" ")]
    assert label == "spam" and values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-3)


def test_missing_file_is_an_input_error(folder, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        classify(file=tmp_path / "none.txt")


def test_column_of_a_table_is_classified_and_an_unclear_one_asked_for(folder, tmp_path, capsys):
    table = tmp_path / "x.tsv"
    table.write_bytes("label\ttext\tnote\n".encode("utf-16") + "ham\tcab é\t1\nspam\tabc de\t2\n".encode("utf-16-le"))
    classify(file=table)
    printed = capsys.readouterr()
    assert [line.split("\t")[2] for line in printed.out.splitlines()] == ["cab é", "abc de"]
    assert "the texts are in the column 'text'" in printed.err
    classify(file=table, column="label")
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == ["ham", "spam"]
    with pytest.raises(InputError, match="has no column 'txt'; did you mean 'text'"):
        classify(file=table, column="txt")
    table.write_text("title,body\nabc de,cab ef\n")
    with pytest.raises(InputError, match="has the columns title, body; name that of the texts with --column"):
        classify(file=table)
    table.rename(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read: [^.]*"):
        classify(file=tmp_path / "x.parquet")


def test_text_with_tabs_is_read_by_lines_with_a_word_or_by_column(folder, tmp_path, capsys):
    file = tmp_path / "x.txt"
    file.write_text("label\ttext\nham\tabc de\nspam\tcab ef\n")
    classify(file=file)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3 and "line by line, tabs included" in printed.err
    classify(file=file, column="text")
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == ["abc de", "cab ef"]
    with pytest.raises(InputError, match="--column names a column of a --file"):
        classify(column="text")
