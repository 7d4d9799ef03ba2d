"""Evaluations of classifiers: baselines, thresholds, unknown labels, and tables to read."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gpt.classifier import Classifier, Decision
from gpt.config import Config, gpt_config
from gpt.model import GPT
from gpt.weights import save_classifier
from pipelines.corpus.documents import SplitConfig, document_id, split_of
from pipelines.corpus.examples import EXAMPLES, Examples
from pipelines.corpus.kept_out import divide
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig, run_classifier
from pipelines.evaluation.trial import TRY
from pipelines.models.text_classifier import TextClassifier
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.characters import count_characters

SHARES = SplitConfig(validation=0.33, test=0.33)
TOKENIZER = count_characters(["abcdefghijklmnopqrstuvwxyz !£0123456789"])


class ClassifierConfig(Config):
    threshold: str | None = None
    seed: int = 0


def write_classifier(inputs, config, out, work):
    """Save a classifier with random weights that knows the labels of the train split."""
    torch.manual_seed(config.seed)
    labels = tuple(sorted({row.label for row in Examples(inputs["examples"]).rows("train")}))
    gpt = GPT(gpt_config("pico", "modern", vocabulary=TOKENIZER.vocabulary, context=24, width=16, heads=2))
    model = Classifier(gpt, len(labels))
    torch.nn.init.normal_(model.head.weight)
    save_classifier(model, Decision(labels, "spam", 0.5 if config.threshold else None), out)
    TOKENIZER.save(out)
    return {"task": "classification"}


CLASSIFIER = StepType("classifier", kind="model", version=1, config=ClassifierConfig, run=write_classifier)


@pytest.fixture
def examples(build, tmp_path):
    """examples([(label, text), ...]) publishes labelled texts, a third of them for each split."""

    def publish(rows):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in rows))
        source = {"uri": str(path), "label": "label"}
        return build(EXAMPLES, {"sources": [source], "split": SHARES.model_dump()})

    return publish


@pytest.fixture
def evaluated(build, examples):
    """evaluated(rows, {config}) publishes a classifier's evaluation."""

    def evaluate(rows, scratch=False, **config):
        published = examples(rows)
        models = {"model": build(CLASSIFIER, config, examples=published)}
        if scratch:
            models["scratch"] = build(CLASSIFIER, config | {"seed": 1}, examples=published)
        return build(EVALUATE_CLASSIFIER, {}, examples=published, **models)

    return evaluate


def letters(n, label="ham", seed=0, splits=("train", "validation", "test")):
    """Labelled texts of random letters that fall into these splits."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < n:
        text = "".join(rng.choice(list("abcdefgh"), 12))
        if split_of(document_id(text), SHARES) in splits:
            rows.append((label, text))
    return rows


TWO = [*letters(60), *letters(24, "spam", 1)]


def values(evaluation, column="value"):
    """Every metric by (system, metric)."""
    rows = pq.read_table(evaluation.file("metrics.parquet")).to_pylist()
    return {(row["system"], row["metric"]): row[column] for row in rows}


def test_trial_reads_only_texts_that_are_kept_out(build, examples):
    published = examples(TWO)
    model = build(CLASSIFIER, {"threshold": "f1"}, examples=published)
    rows = Examples(published).rows("validation")
    wanted = {row.id for row in divide(rows)[1]}
    for baseline in (False, True):
        trial = build(TRY, {"baseline": baseline}, model=model, examples=published)
        predictions = pq.read_table(trial.file("predictions.parquet")).to_pylist()
        assert {row["item"] for row in predictions} == wanted and trial.manifest.statistics["items"] == len(wanted)
    assert {row["model_label"] for row in predictions} == {"ham"}, "the most frequent label"
    assert trial.manifest.statistics["trial/f1"] == 0 and trial.manifest.statistics["trial/accuracy"] > 0.5


def test_evaluation_has_baselines_intervals_curves_and_mistakes(evaluated):
    evaluation = evaluated(TWO, scratch=True, threshold="f1")
    metrics, low, high = values(evaluation), values(evaluation, "low"), values(evaluation, "high")
    systems = ["model", "from random weights", "TF-IDF logistic regression", "hand-made features", "majority class"]
    assert list(dict.fromkeys(system for system, _ in metrics)) == systems
    for system in systems:
        assert {"accuracy", "f1", "f1_macro", "roc_auc", "brier", "recall/ham"} <= {
            m for s, m in metrics if s == system
        }
        assert low[system, "accuracy"] <= metrics[system, "accuracy"] <= high[system, "accuracy"]
    predictions = pq.read_table(evaluation.file("predictions.parquet")).to_pylist()
    statistics = evaluation.manifest.statistics
    assert statistics["classify/accuracy"] == np.mean([row["truth"] == row["model_label"] for row in predictions])
    assert statistics["classify-interval/f1_low"] == low["model", "f1"]
    assert statistics["classify-baseline/majority_class/f1"] == metrics["majority class", "f1"]
    wrong = sum(n for name, n in statistics.items() if name in ("confusion/ham_as_spam", "confusion/spam_as_ham"))
    mistakes = pq.read_table(evaluation.file("mistakes.parquet")).to_pylist()
    assert len(mistakes) == wrong == sum(row["truth"] != row["model_label"] for row in predictions)
    assert all(row["truth"] != row["predicted"] for row in mistakes)
    assert [row["probability"] for row in mistakes] == sorted((row["probability"] for row in mistakes), reverse=True)
    curves = pq.read_table(evaluation.file("curves.parquet"))
    assert set(curves["system"].to_pylist()) == set(systems)
    assert set(curves["curve"].to_pylist()) == {"roc", "precision_recall", "calibration"}


def test_every_system_gets_a_threshold(evaluated):
    evaluation = evaluated(TWO, threshold="balanced_accuracy")
    rows = pq.read_table(evaluation.file("predictions.parquet")).to_pylist()
    # The threshold is the single probability of the majority class, so all texts are spam.
    assert {row["majority_class_label"] for row in rows} == {"spam"}
    plain = evaluated(TWO)
    rows = pq.read_table(plain.file("predictions.parquet")).to_pylist()
    assert {row["majority_class_label"] for row in rows} == {"ham"}


def test_class_that_training_never_saw_counts_as_errors(evaluated, warnings):
    evaluation = evaluated([*TWO, *letters(5, "£gg", 2, splits=["test"])])
    assert "labels that training never saw count as errors: £gg" in warnings.sentences
    assert values(evaluation)["model", "recall/£gg"] == 0
    rows = pq.read_table(evaluation.file("predictions.parquet")).to_pylist()
    assert sum(row["truth"] == "£gg" for row in rows) == 5
    assert evaluation.manifest.statistics["classify/f1/£gg"] == 0
    assert 0 < values(evaluation)["model", "roc_auc"] < 1


def test_long_labels_are_short_in_statistics_only(evaluated):
    long = [f"{'a very long label ' * 20}{i}" for i in range(2)]
    evaluation = evaluated([*TWO, *letters(30, long[0], 2), *letters(30, long[1], 3)])
    assert {("model", f"f1/{label}") for label in long} <= set(values(evaluation))
    names = evaluation.manifest.statistics
    assert sum(name.startswith("classify/f1/a very long") for name in names) == 2
    assert sum(name.startswith("confusion/a very long") for name in names) == 8
    assert max(map(len, names)) < 250 and len(EVALUATE_CLASSIFIER.details(evaluation).splitlines()[0]) < 120


def test_each_of_several_classes_is_ranked_against_the_rest(evaluated):
    evaluation = evaluated([*TWO, *letters(30, "egg", 2)])
    curves = pq.read_table(evaluation.file("curves.parquet")).to_pylist()
    assert {row["label"] for row in curves if row["curve"] == "roc"} == {"egg", "ham", "spam"}
    assert {row["metric"] for row in pq.read_table(evaluation.file("metrics.parquet")).to_pylist()} >= {"f1/egg"}


def test_texts_of_one_class_have_no_ranking(evaluated):
    rows = [*letters(60), *letters(24, "spam", 1, splits=["train", "validation"])]
    metrics = values(evaluated(rows, threshold="f1"))
    assert ("model", "accuracy") in metrics and ("model", "roc_auc") not in metrics


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_changes_no_metric(batch_size, build, examples, monkeypatch, tmp_path):
    published = examples(TWO)
    inputs = {"examples": published, "model": build(CLASSIFIER, {}, examples=published)}
    expected = run_classifier(inputs, EvaluateClassifierConfig(), tmp_path, StepContext(tmp_path))
    probabilities, used = TextClassifier.probabilities, []

    def in_batches(self, texts):
        used.append(batch_size)
        return probabilities(self, texts, batch_size)

    monkeypatch.setattr(TextClassifier, "probabilities", in_batches)
    assert run_classifier(inputs, EvaluateClassifierConfig(), tmp_path, StepContext(tmp_path)) == pytest.approx(
        expected, abs=1e-6
    )
    assert used == [batch_size]
