"""Evaluate a classifier on held-out examples, beside one from random weights and classifiers without a GPT.

Besides metrics and predictions an evaluation holds `confusion.parquet` (truth, predicted, count), `curves.parquet` and
`mistakes.parquet`, the texts with the most confident wrong answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpt.classifier import Decision
from gpt.config import Config
from pipelines.corpus.examples import Example, Examples
from pipelines.corpus.kept_out import divide
from pipelines.corpus.labels import listed
from pipelines.corpus.readers.records import short_line
from pipelines.errors import InputError
from pipelines.evaluation.classification_metrics import Answers, curves, with_intervals
from pipelines.evaluation.results import MODEL, aligned, key_of, read_metrics, statistics, write_evaluation
from pipelines.models.language_model import open_model
from pipelines.models.text_classifier import TextClassifier
from pipelines.models.threshold import choose_threshold
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.visible import cut

Result = tuple[NDArray[np.float64], Decision]
"""The probabilities (N, classes) that a system gives to N texts, and its rule."""


SCRATCH = "from random weights"


MISTAKES = 100


FEW = 10  # labels; with more, the statistics have neither metrics of each label nor confusions


MAX_NAME, SHOWN = 100, 20  # bytes of a label in the name of a statistic, and letters in a line for people


MANY = 100  # labels; with more, the confusions are the pairs that occur


class EvaluateClassifierConfig(Config):
    """How a classifier is evaluated: on held-out examples, beside classifiers without a GPT."""

    split: Literal["validation", "test"] = "test"
    """The split that is scored; a threshold was chosen on validation."""


def run_classifier(
    inputs: Mapping[str, Dataset], config: EvaluateClassifierConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Evaluate the model, its baselines and, if there is one, the model from `scratch`."""
    model, examples = _classifier(inputs["model"]), Examples(inputs["examples"])
    rows = examples.rows(config.split)
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge a classifier on.")
    texts, decision = [row.text for row in rows], model.decision
    results: dict[str, Result] = {MODEL: (model.probabilities(texts), decision)}
    if "scratch" in inputs:
        scratch = _classifier(inputs["scratch"])
        results[SCRATCH] = scratch.probabilities(texts), scratch.decision
    criterion = inputs["model"].manifest.config.get("threshold") if decision.threshold is not None else None
    learned = Examples(inputs.get("trained_on", inputs["examples"]))
    results |= baseline_results(learned, texts, decision, criterion, work)

    answers = answers_by_system(rows, model.labels, results, work)
    labels = answers[MODEL].labels
    metrics = {}
    for number, (system, each) in enumerate(answers.items()):
        work.listener.progress(number, len(answers), "systems", system)  # many labels take long
        metrics[system] = with_intervals(each)
    predictions, confusion = predictions_table(rows, answers), confusion_table(answers[MODEL])
    all_curves = pa.concat_tables([curves(system, each) for system, each in answers.items()])
    write_evaluation(out, metrics, predictions, confusion=confusion, curves=all_curves, mistakes=mistakes(predictions))
    few = len(labels) <= FEW
    shown = {
        system: {_short(name): value for name, value in each.items() if "/" not in name or (few and system == MODEL)}
        for system, each in metrics.items()
    }
    counts = {
        f"confusion/{cut(row['truth'], MAX_NAME)}_as_{cut(row['predicted'], MAX_NAME)}": row["count"]
        for row in (confusion.to_pylist() if few else ())
    }
    return {
        "task": "classification",
        "scored_examples": len(rows),
        "positive": decision.positive,
        **statistics("classify", shown),
        **counts,
    }


def answers_by_system(
    rows: Sequence[Example], known: Sequence[str], results: Mapping[str, Result], work: StepContext
) -> dict[str, Answers]:
    """Return what each system answered to held-out texts. Labels that training never saw count as errors.

    Args:
        rows: the texts.
        known: the labels that training saw.
        results: what each system gives.
        work: receives a warning about the other labels.
    """
    unknown = sorted({row.label or "" for row in rows} - set(known))
    if unknown:
        work.listener.warn(f"labels that training never saw count as errors: {listed(unknown)}")
    labels = [*known, *unknown]
    truth = class_numbers(rows, labels)
    return {
        system: Answers(
            truth,
            rule.classes(probabilities),
            np.pad(probabilities, ((0, 0), (0, len(unknown)))),
            labels,
            labels.index(rule.positive),
            len(known),
        )
        for system, (probabilities, rule) in results.items()
    }


def _short(metric: str) -> str:
    """Return the name of a metric, of which a label may be a part, as the name of a statistic."""
    return cut(metric, MAX_NAME)


def baseline_results(
    examples: Examples, texts: Sequence[str], decision: Decision, criterion: str | None, work: StepContext
) -> dict[str, Result]:
    """Train classifiers without a GPT and return their results on the texts, by system.

    Args:
        examples: the training and validation texts.
        texts: the texts to classify.
        decision: the rule of the model.
        criterion: what the model's threshold was chosen by, if it has one. The baselines then get thresholds as well.
        work: receives a warning if there is nothing to train on.
    """
    from pipelines.evaluation.classifier_baselines import BASELINES, fit_baseline  # scikit-learn imports for a second

    train = [row for row in examples.rows("train") if row.label in decision.labels]
    if len({row.label for row in train}) < 2:
        work.listener.warn("no baselines: the train split does not have two of the classifier's labels")
        return {}
    choosing, positive = divide(examples.rows("validation"))[0], decision.labels.index(decision.positive)
    is_positive = np.array([row.label == decision.positive for row in choosing], bool)
    train_texts, classes = [row.text for row in train], class_numbers(train, decision.labels)
    results: dict[str, Result] = {}
    for number, system in enumerate(BASELINES):
        work.listener.progress(number, len(BASELINES), "baselines", system)
        predict = fit_baseline(system, train_texts, classes, len(decision.labels))
        threshold = None
        if criterion and choosing:
            probabilities = predict([row.text for row in choosing])[:, positive]
            threshold = choose_threshold(is_positive, probabilities, criterion)
        results[system] = predict(texts), replace(decision, threshold=threshold)
    return results


def class_numbers(rows: Sequence[Example], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return (N,) the number of each example's label."""
    number = {label: i for i, label in enumerate(labels)}
    return np.array([number[row.label or ""] for row in rows])


def predictions_table(rows: Sequence[Example], answers: Mapping[str, Answers]) -> pa.Table:
    """Return every text with its label, and the label and its probability that each system gives."""
    table = {"item": [row.id for row in rows], "text": [row.text for row in rows], "truth": [row.label for row in rows]}
    for system, each in answers.items():
        table[f"{key_of(system)}_label"] = [each.labels[i] for i in each.predicted]
        table[f"{key_of(system)}_probability"] = each.probabilities[np.arange(len(rows)), each.predicted]
    return pa.table(table)


def confusion_table(answers: Answers) -> pa.Table:
    """Return the number of texts of each label that got each label (truth, predicted, count)."""
    labels = pa.array(answers.labels, pa.string())
    counts = np.bincount(answers.truth * len(labels) + answers.predicted, minlength=len(labels) ** 2)
    pairs = np.flatnonzero(counts) if len(labels) > MANY else np.arange(len(counts))
    truth, predicted = np.divmod(pairs, len(labels))
    return pa.table({"truth": labels.take(truth), "predicted": labels.take(predicted), "count": counts[pairs]})


def mistakes(predictions: pa.Table) -> pa.Table:
    """Return the model's wrong answers (item, text, truth, predicted, probability), the most confident first."""
    table = predictions.select(["item", "text", "truth", f"{MODEL}_label", f"{MODEL}_probability"])
    table = table.rename_columns(["item", "text", "truth", "predicted", "probability"])
    wrong = table.filter(pa.compute.not_equal(table["truth"], table["predicted"]))
    return wrong.sort_by([("probability", "descending"), ("item", "ascending")])[:MISTAKES]


def _classifier(dataset: Dataset) -> TextClassifier:
    model = open_model(dataset.path)
    if not isinstance(model, TextClassifier):
        raise InputError(f"{dataset} is no classifier.")
    return model


def _headline(s: Mapping[str, Any]) -> str:
    return f"accuracy {s['classify/accuracy']:.3f}, F1 on {short_line(s['positive'], SHOWN)} {s['classify/f1']:.3f}"


def _details(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    names = {"model": "this model", "TF-IDF logistic regression": "TF-IDF regression"}
    table = [[f"{s['scored_examples']:,} held-out texts", "accuracy", f"F1 {short_line(s['positive'], SHOWN)}", "95%"]]
    for system, metrics in read_metrics(dataset).items():
        f1 = metrics["f1"]
        cells = (f"{metrics['accuracy'].value:.3f}", f"{f1.value:.3f}", f"{f1.low:.2f}-{f1.high:.2f}")
        table.append([names.get(system, system), *cells])
    return aligned(table)


EVALUATE_CLASSIFIER = StepType(
    "evaluate-classifier",
    kind="evaluation",
    version=4,
    config=EvaluateClassifierConfig,
    run=run_classifier,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
    headline=_headline,
    details=_details,
)
