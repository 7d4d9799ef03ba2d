"""Evaluate a classifier: on held-out examples, beside classifiers without a GPT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from gpt.config import Config
from pipelines.baselines import majority_class, tfidf_logistic_regression
from pipelines.datasets import Examples
from pipelines.errors import InputError
from pipelines.evaluation import MODEL, Metrics, key_of, statistics, write_evaluation
from pipelines.model import TextClassifier, open_model
from pipelines.step import StepType, Work
from pipelines.store import Dataset


class EvaluateClassifierConfig(Config):
    """How a classifier is judged: on held-out examples, beside classifiers without a GPT."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    positive: str | None = Field(
        default=None,
        description="The label that precision, recall and F1 are about; by default the rarest in training.",
    )


def run_classifier(
    inputs: Mapping[str, Dataset], config: EvaluateClassifierConfig, out: Path, work: Work
) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the confusion matrix, beside TF-IDF logistic regression and the majority."""
    model, examples = open_model(inputs["model"].path), Examples(inputs["examples"])
    if not isinstance(model, TextClassifier):
        raise InputError(f"{inputs['model']} is no classifier.")
    train, rows = examples.rows("train"), examples.rows(config.split)
    unknown = sorted({row.label or "" for row in rows} - set(model.labels))
    if unknown:
        work.report.warn(f"labels that training never saw count as errors: {', '.join(unknown)}")
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge a classifier on.")
    labels = [*model.labels, *unknown]
    train_labels = np.array([labels.index(row.label or "") for row in train])
    truth = np.array([labels.index(row.label or "") for row in rows])
    positive = config.positive or labels[int(np.bincount(train_labels, minlength=len(model.labels)).argmin())]
    if positive not in labels:
        raise InputError(f"evaluate.positive: {positive!r} is none of the labels {', '.join(labels)}.")
    texts = [row.text for row in rows]
    probabilities = {MODEL: model.probabilities(texts)}
    for baseline in (
        tfidf_logistic_regression([row.text for row in train], train_labels, texts, len(model.labels)),
        majority_class(train_labels, len(rows), len(model.labels)),
    ):
        probabilities[baseline.system] = baseline.probabilities
    metrics = {
        system: classification_metrics(truth, each.argmax(axis=1), labels, positive)
        for system, each in probabilities.items()
    }
    confusion = confusion_matrix(truth, probabilities[MODEL].argmax(axis=1), len(labels))
    pq.write_table(
        pa.table(
            {
                "truth": [labels[i] for i in range(len(labels)) for _ in labels],
                "predicted": [label for _ in labels for label in labels],
                "count": confusion.flatten(),
            }
        ),
        out / "confusion.parquet",
    )
    predictions = {"item": [row.id for row in rows], "text": texts, "truth": [row.label for row in rows]}
    for system, each in probabilities.items():
        key = key_of(system)
        predictions[f"{key}_label"] = [labels[i] for i in each.argmax(axis=1)]
        predictions[f"{key}_probability"] = each.max(axis=1)
    write_evaluation(out, metrics, pa.table(predictions))
    return {
        "task": "classification",
        "scored_examples": len(rows),
        "positive": positive,
        **statistics("classify", metrics),
        **{
            f"confusion/{labels[i]}_as_{labels[j]}": int(confusion[i, j])
            for i in range(len(labels))
            for j in range(len(labels))
            if len(labels) <= 10
        },
    }


def confusion_matrix(truth: NDArray, predicted: NDArray, n_classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: truth down, prediction across."""
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def classification_metrics(truth: NDArray, predicted: NDArray, labels: Sequence[str], positive: str) -> Metrics:
    """Accuracy over all classes; precision, recall and F1 of the positive class; F1 as the mean over classes.

    A ratio whose denominator is empty counts as 0, as scikit-learn has it with `zero_division=0`.
    """
    confusion = confusion_matrix(truth, predicted, len(labels))
    right = np.diag(confusion).astype(float)
    said, real = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = np.divide(right, said, out=np.zeros(len(labels)), where=said > 0)
    recall = np.divide(right, real, out=np.zeros(len(labels)), where=real > 0)
    f1 = np.divide(2 * right, said + real, out=np.zeros(len(labels)), where=said + real > 0)
    seen = (said + real) > 0
    at = labels.index(positive)
    return {
        "accuracy": float(right.sum() / confusion.sum()),
        "precision": float(precision[at]),
        "recall": float(recall[at]),
        "f1": float(f1[at]),
        "f1_macro": float(f1[seen].mean()),
    }


_MODULES = (
    "pipelines.evaluate_classifier",
    "pipelines.evaluation",
    "pipelines.baselines",
    "pipelines.model",
    "gpt.model",
    "gpt.generate",
)


EVALUATE_CLASSIFIER = StepType(
    "evaluate-classifier",
    kind="evaluation",
    version=2,
    config=EvaluateClassifierConfig,
    run=run_classifier,
    modules=_MODULES,
)
