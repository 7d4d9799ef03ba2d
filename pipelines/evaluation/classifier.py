"""Evaluate a classifier: on held-out examples, beside the same one from random weights and classifiers without a GPT.

Besides metrics and predictions an evaluation holds `confusion.parquet` (truth, predicted, count), `curves.parquet` and
`mistakes.parquet`, the texts of which the classifier was most confidently wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from gpt.classifier import Decision
from gpt.config import Config
from pipelines.corpus.examples import Examples
from pipelines.errors import InputError
from pipelines.evaluation.results import MODEL, aligned, key_of, statistics, write_evaluation
from pipelines.models.language_model import open_model
from pipelines.models.text_classifier import TextClassifier
from pipelines.models.threshold import choose_threshold
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType

SCRATCH = "from random weights"


MISTAKES = 100


FEW = 10  # labels, of which each and each confusion stand in the statistics


class EvaluateClassifierConfig(Config):
    """How a classifier is judged: on held-out examples, beside classifiers without a GPT."""

    split: Literal["validation", "test"] = Field(
        default="test", description="The split that is scored; a threshold was chosen on validation."
    )


def run_classifier(
    inputs: Mapping[str, Dataset], config: EvaluateClassifierConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Metrics with intervals of the model, its baselines and, if there is one, the model from `scratch`."""
    from sklearn.metrics import confusion_matrix  # most of a second, with what both of these need of it

    from pipelines.evaluation.classification_metrics import Answers, curves, with_intervals
    from pipelines.evaluation.classifier_baselines import BASELINES

    model, examples = _classifier(inputs["model"]), Examples(inputs["examples"])
    rows, validation = examples.rows(config.split), examples.rows("validation")
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge a classifier on.")
    unknown = sorted({row.label or "" for row in rows} - set(model.labels))
    if unknown:
        work.listener.warn(f"labels that training never saw count as errors: {', '.join(unknown)}")
    labels = [*model.labels, *unknown]
    number = {label: i for i, label in enumerate(labels)}
    texts, truth = [row.text for row in rows], np.array([number[row.label or ""] for row in rows])
    decision = model.decision
    chosen_by = inputs["model"].manifest.config.get("threshold") if decision.threshold is not None else None

    answers: dict[str, Answers] = {}

    def judge(system: str, probabilities: np.ndarray, decision: Decision) -> None:
        """Note what a system said, given its probabilities (N, labels that training saw)."""
        unseen = np.zeros((len(rows), len(unknown)))
        positive = number[decision.positive]
        answers[system] = Answers(
            truth,
            decision.classes(probabilities),
            np.hstack([probabilities, unseen]),
            labels,
            positive,
            len(model.labels),
        )

    judge(MODEL, model.probabilities(texts), decision)
    if "scratch" in inputs:
        scratch = _classifier(inputs["scratch"])
        judge(SCRATCH, scratch.probabilities(texts), scratch.decision)
    train = [row for row in examples.rows("train") if row.label in model.labels]
    if len({row.label for row in train}) < 2:
        work.listener.warn("no baselines: the train split does not have two of the classifier's labels")
    for system, fit in BASELINES.items() if len({row.label for row in train}) > 1 else ():
        predict = fit(
            [row.text for row in train], np.array([number[row.label or ""] for row in train]), len(model.labels)
        )
        threshold = None
        if chosen_by:  # they get what the model got
            said = predict([row.text for row in validation])[:, number[decision.positive]]
            is_positive = np.array([row.label == decision.positive for row in validation])
            threshold = choose_threshold(is_positive, said, chosen_by)
        judge(system, predict(texts), Decision(model.labels, decision.positive, threshold))

    metrics = {system: with_intervals(each) for system, each in answers.items()}
    predictions = {"item": [row.id for row in rows], "text": texts, "truth": [row.label for row in rows]}
    for system, each in answers.items():
        predictions[f"{key_of(system)}_label"] = [labels[i] for i in each.predicted]
        predictions[f"{key_of(system)}_probability"] = each.probabilities[np.arange(len(rows)), each.predicted]
    write_evaluation(out, metrics, pa.table(predictions))
    confusion = confusion_matrix(truth, answers[MODEL].predicted, labels=range(len(labels)))
    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels))]
    tables = {
        "confusion": pa.table(
            {
                "truth": [labels[i] for i, _ in pairs],
                "predicted": [labels[j] for _, j in pairs],
                "count": confusion.flatten(),
            }
        ),
        "curves": pa.concat_tables([curves(system, each) for system, each in answers.items()]),
        "mistakes": mistakes(pa.table(predictions)),
    }
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")

    few = len(labels) <= FEW
    shown = {
        system: {name: value for name, value in each.items() if "/" not in name or (few and system == MODEL)}
        for system, each in metrics.items()
    }
    counts = {f"confusion/{labels[i]}_as_{labels[j]}": int(confusion[i, j]) for i, j in pairs} if few else {}
    return {
        "task": "classification",
        "scored_examples": len(rows),
        "positive": decision.positive,
        **statistics("classify", shown),
        **counts,
    }


def mistakes(predictions: pa.Table) -> pa.Table:
    """The texts that the model got wrong (item, text, truth, predicted, probability), the most confident first."""
    said = predictions.select(["item", "text", "truth", f"{MODEL}_label", f"{MODEL}_probability"])
    said = said.rename_columns(["item", "text", "truth", "predicted", "probability"])
    wrong = said.filter(pa.compute.not_equal(said["truth"], said["predicted"]))
    return wrong.sort_by([("probability", "descending"), ("item", "ascending")])[:MISTAKES]


def _classifier(dataset: Dataset) -> TextClassifier:
    model = open_model(dataset.path)
    if not isinstance(model, TextClassifier):
        raise InputError(f"{dataset} is no classifier.")
    return model


def _headline(s: Mapping[str, Any]) -> str:
    return f"accuracy {s['classify/accuracy']:.3f}, F1 on {s['positive']} {s['classify/f1']:.3f}"


def _details(dataset: Dataset) -> str:
    s, rows = dataset.manifest.statistics, pq.read_table(dataset.file("metrics.parquet")).to_pylist()
    value = {(row["system"], row["metric"]): row for row in rows}
    names = {"model": "this model", "TF-IDF logistic regression": "TF-IDF regression"}
    table = [[f"{s['scored_examples']:,} held-out texts", "accuracy", f"F1 {s['positive']}", "95%"]]
    for system in dict.fromkeys(row["system"] for row in rows):
        f1 = value[system, "f1"]
        cells = (f"{value[system, 'accuracy']['value']:.3f}", f"{f1['value']:.3f}", f"{f1['low']:.2f}-{f1['high']:.2f}")
        table.append([names.get(system, system), *cells])
    return aligned(table)


EVALUATE_CLASSIFIER = StepType(
    "evaluate-classifier",
    kind="evaluation",
    version=3,
    config=EvaluateClassifierConfig,
    run=run_classifier,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
    headline=_headline,
    details=_details,
)
