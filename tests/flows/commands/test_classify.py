"""`tokenmill classify`: what it writes for a text, a file and standard input."""

import io
import json
from types import SimpleNamespace

import pytest
import torch

from flows.commands import classify
from flows.commands.classify import classify_texts
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
    """A classifier whose threshold is so low that every text is spam."""
    torch.manual_seed(0)
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=16))
    save_classifier(Classifier(gpt, 2), Decision(("ham", "spam"), "spam", 0.01), tmp_path)
    TOKENIZER.save(tmp_path)
    monkeypatch.setattr(classify, "find_model", lambda reference: SimpleNamespace(path=tmp_path))
    return tmp_path


def test_a_text_gets_its_label_probability_and_no_word_on_speed(folder, capsys):
    classify_texts("x", "abc\nabc", None, every=False, as_json=False)
    said = capsys.readouterr()
    label, probability, text = said.out.rstrip("\n").split("\t")
    assert label == "spam" and text == "abc abc" and said.err == ""
    assert probability == f"{open_model(folder).probabilities(['abc' + chr(10) + 'abc'])[0, 1]:.4f}"


def test_lines_of_standard_input_are_answered_in_order_with_every_label(folder, capsys, monkeypatch):
    monkeypatch.setattr(classify, "BATCH", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("abc\r\n\ncab, é"))
    classify_texts("x", None, None, every=True, as_json=True)
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["text"] for row in rows] == ["abc", "", "cab, é"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1) for row in rows)
    assert all(row["label"] == "spam" and row["probability"] == row["probabilities"]["spam"] for row in rows)
    assert said.err.startswith("3 texts in ") and said.err.endswith(" a second\n")


def test_every_label_stands_in_the_table_too_the_likeliest_first(folder, capsys):
    classify_texts("x", "abc", None, every=True, as_json=False)
    label, said, _ = capsys.readouterr().out.split("\t")
    values = [float(each.split("=")[1]) for each in said.split(" ")]
    assert label == "spam" and values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-3)


def test_a_file_that_is_not_there_gets_a_sentence(folder, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        classify_texts("x", None, tmp_path / "none.txt", every=False, as_json=False)
