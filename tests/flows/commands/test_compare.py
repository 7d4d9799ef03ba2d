"""`tokenmill compare` on a terminal of 80 columns."""

import pytest

from flows.commands.compare import compare_models
from pipelines.errors import InputError
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig


@pytest.fixture
def pair(family, monkeypatch):
    """Two models of a family; the second is better."""
    monkeypatch.setenv("TOKENMILL_HOME", str(family.home.path))
    monkeypatch.setenv("COLUMNS", "80")
    return family, [family.model(right) for right in (0.7, 0.9)]


def evaluate(family, model):
    inputs = {"model": model, "examples": family.examples}
    family.perform(EVALUATE_CLASSIFIER.using(family.name, EvaluateClassifierConfig(), inputs))


def test_nothing_is_cut_or_wrapped_at_80_columns(pair, capsys):
    family, models = pair
    for model in models:
        evaluate(family, model)
    compare_models([f"{family.name}/1", f"{family.name}/2"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    rows = {line.split("  ")[0]: line.split()[1:] for line in lines}
    assert rows["model"] == [f"model@{model.ref.fingerprint[:12]}" for model in models]
    assert rows["make-model.content"]
    metric = lines.index("classify/accuracy")
    assert lines[metric + 1].split()[:2] == [f"{family.name}/1", "0.7"]
    assert "better (+0.2, p < 0.001)" in lines[metric + 2]


def test_differences_are_shown_without_an_evaluation(pair, capsys):
    family, models = pair
    compare_models([f"{family.name}/1", str(models[1])])
    out, err = capsys.readouterr()
    assert out.startswith(f"A  {family.name}/1\nB  {models[1]}\n") and "make-model.content" in out
    assert "has not been evaluated" in " ".join(err.split())


def test_one_model_is_nothing_to_compare(pair):
    family, _ = pair
    with pytest.raises(InputError, match="nothing to compare"):
        compare_models([f"{family.name}/1", f"{family.name}/1"])
