"""The page of models side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chains import BAD

from pipelines.errors import InputError
from pipelines.report import comparison
from pipelines.report.figures.beside import answer_parts, label_parts, read_generated, smooth, training_parts
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

FILE = "predictions.parquet"


@pytest.fixture(scope="module")
def page(chain: dict[str, Dataset]) -> str:
    model = chain["pretrain"]
    return comparison.comparison_page(["one", BAD], [model, model], Store(model.folder.parents[1]))


def test_page_shows_differences_curves_metrics_and_texts(page: str, parse: Any) -> None:
    headings = parse(page).headings
    for expected in (
        "What differs", "Config of every step", "Data, size and time", "Loss, training", "Loss, validation",
        "Written at the end of training", "Bits per byte", "All metrics", "After the same prompts",
    ):  # fmt: skip
        assert expected in headings, expected
    assert "no difference shown, p = 1.000" in page


def test_no_text_of_a_comparison_becomes_markup(page: str, parse: Any) -> None:
    parsed = parse(page)
    assert not parsed.tags & {"script", "img", "iframe", "link", "object", "embed", "form"}
    assert parsed.fetched == [] and parsed.handlers == [] and "&lt;script&gt;" in page


def test_legend_names_each_model(made: Callable[[str], Dataset]) -> None:
    models = {"wiki/1": made("pretrain"), "wiki/2": made("pretrain")}
    loss = next(part for part in training_parts(models, 0.5) if part.title == "Loss, training")
    assert "wiki/1</text>" in loss.svg and "wiki/2</text>" in loss.svg and "keeps 0.5" in loss.note
    assert smooth([1.0, 1.0, 4.0], 0.5) == pytest.approx([1, 1, 19 / 7])
    assert smooth([1.0, 4.0], 0) == [1, 4]


def test_models_of_other_items_are_shown_without_tests(
    chain: dict[str, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("Other items.")

    monkeypatch.setattr(comparison, "matching", refuse)
    model = chain["pretrain"]
    found = comparison.comparison_page(["one", "two"], [model, model], Store(model.folder.parents[1]))
    assert "Other items." in found and "All metrics" not in found and "After the same prompts" in found


def test_prompts_are_taken_apart_again(publish: Callable[..., Dataset]) -> None:
    def write(out: Path) -> None:
        (out / "generated.txt").write_text("In\n\n----\n\n x\n\n----\n\nAnd y\n")

    made = publish("x", write, ("In", "And"))
    assert read_generated(made) == {"In": "\n\n----\n\n x", "And": " y"}


@pytest.fixture
def predictions(publish: Callable[..., Dataset]) -> Callable[..., Mapping[str, Dataset]]:
    """predictions(NAME=COLUMNS, ...) are evaluations with these predictions, by name."""

    def make(**tables: dict[str, list[str]]) -> Mapping[str, Dataset]:
        return {
            name: publish(name, lambda out, columns=columns: pq.write_table(pa.table(columns), out / FILE))
            for name, columns in tables.items()
        }

    return make


def test_items_that_one_gets_right_and_the_other_wrong(predictions: Callable[..., Mapping[str, Dataset]]) -> None:
    questions = {"item": ["a", "b", "c"], "text": ["x", "y", "z"], "truth": ["ham", "ham", "spam"]}
    one, other = label_parts(
        predictions(
            one=questions | {"model_label": ["ham", "ham", "ham"]},
            other=questions | {"model_label": ["ham", "spam", "spam"]},
        )
    )
    assert one.title == "one is right and other is wrong" and one.rows == [("y", "ham", "spam")]
    assert other.rows == [("z", "spam", "ham")]


def test_answers_stand_beside_each_other(predictions: Callable[..., Mapping[str, Dataset]]) -> None:
    questions = {"item": ["a"], "instruction": ["Who?"], "response": ["I."]}
    (part,) = answer_parts(
        predictions(one=questions | {"model_answer": ["You."]}, other=questions | {"model_answer": ["w" * 700]})
    )
    assert part.columns == ("instruction", "response", "one", "other")
    assert part.rows == [("Who?", "I.", "You.", "w" * 600 + "…")]
