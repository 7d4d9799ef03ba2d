"""Two models on the same held-out items: every metric side by side, and whether the difference is more than luck.

An evaluation's `predictions.parquet` has what a model said to each item. Two evaluations can be compared if their items
are the same; what each model said, counted item by item, is then summed over the same resamples of the items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.errors import InputError
from pipelines.evaluation.answer_metrics import measure_answers
from pipelines.evaluation.results import LOWER_IS_BETTER
from pipelines.evaluation.significance import Interval, OfSums, Rows, class_ratios, mcnemar, paired_bootstrap
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Ref
from pipelines.store.store import Store

STAGES = {"language": "test", "classification": "classify", "instruction": "instruct", "choice": "task"}


SAME = {
    "language": ("item",),
    "classification": ("item", "truth"),
    "instruction": ("item", "response"),
    "choice": ("item", "answer"),
}
"""Columns of the predictions that say what was asked, by task."""


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same items; `difference` is second minus first.

    test: how p was found; p is None for a metric that no sum over items gives, which is shown and not tested.
    """

    metric: str
    first: Interval
    second: Interval
    difference: Interval
    p: float | None
    test: str

    @property
    def gain(self) -> float:
        """How much better the second is, whichever way the metric points."""
        return gain(self.metric, self.difference.value)

    def better(self, significance: float = 0.05) -> str | None:
        """`first` or `second`, if the difference is significant."""
        if self.p is None or self.p >= significance or not self.gain:
            return None
        return "second" if self.gain > 0 else "first"


def gain(metric: str, difference: float) -> float:
    """A difference as an improvement: of a loss, lower is better, and so it is of the loss on one source alone.

    metric: named `stage/metric`, and what else it is of behind that: `test/loss/source/NAME`.
    """
    return -difference if metric.split("/")[1] in LOWER_IS_BETTER else difference


def compare(first: Dataset, second: Dataset) -> list[Difference]:
    """Every metric of two evaluations, with a paired test where the metric is a function of sums over items.

    Raises:
        InputError: the evaluations are not of the same items.
    """
    if not same_items(first, second):
        raise InputError(f"{_described(first)} and {_described(second)}: only the same items can be compared.")
    task = str(first.manifest.statistics["task"])
    tables = _predictions(first), _predictions(second)
    measures = MEASURES[task](*tables, first.manifest.statistics)
    values = [_metrics(each) for each in (first, second)]
    found = []
    for name in [*measures, *(name for name in values[0] if name in values[1] and name not in measures)]:
        metric = f"{STAGES[task]}/{name}"
        if measure := measures.get(name):
            paired = paired_bootstrap(measure.rows[0], measure.rows[1], measure.of_sums)
            p, test = paired.p, "paired bootstrap"
            if measure.right:
                p, test = mcnemar(measure.right[0], measure.right[1]), "McNemar"
            found.append(Difference(metric, paired.first, paired.second, paired.difference, p, test))
        elif name.partition("/")[0] not in NOT_ACROSS_TOKENIZERS or "loss" in measures or task != "language":
            a, b = values[0][name], values[1][name]
            d = b.value - a.value
            found.append(Difference(metric, a, b, Interval(d, math.nan, math.nan), None, ""))
    return found


# Which evaluations


def evaluations_of(model: Ref, evaluations: Sequence[Dataset]) -> list[Dataset]:
    """The evaluations of these very weights, the newest first."""
    return [each for each in reversed(evaluations) if each.manifest.inputs.get("model") == model]


def matching(models: Sequence[Ref], store: Store) -> list[Dataset]:
    """An evaluation of each model, all of the same items: the newest such of the first model.

    Raises:
        InputError: a model has not been evaluated, or there are no evaluations of the same items.
    """
    everything = store.list("evaluation")
    of = [evaluations_of(model, everything) for model in models]
    for model, found in zip(models, of, strict=True):
        if not found:
            raise InputError(f"{model} has not been evaluated; `tokenmill evaluate CONFIG` does that.")
    for first in of[0]:
        others = [next((each for each in found if same_items(first, each)), None) for found in of[1:]]
        if all(others):
            return [first, *filter(None, others)]
    first, other = of[0][0], next(found[0] for found in of[1:] if not any(same_items(of[0][0], e) for e in found))
    raise InputError(f"{_described(first)} and {_described(other)}: only models judged on the same can be compared.")


def same_items(a: Dataset, b: Dataset) -> bool:
    """Whether two evaluations asked the same of their models."""
    if a.manifest.step != b.manifest.step or a.manifest.config.get("split") != b.manifest.config.get("split"):
        return False
    columns = list(SAME[str(a.manifest.statistics["task"])])
    return bool(_predictions(a, columns).equals(_predictions(b, columns)))


def _predictions(evaluation: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    with evaluation.open("predictions.parquet") as file:
        return pq.read_table(file, columns=columns)


def _metrics(evaluation: Dataset) -> dict[str, Interval]:
    with evaluation.open("metrics.parquet") as file:
        table = pq.read_table(file, filters=[("system", "==", "model")]).to_pylist()
    unknown = math.nan
    return {
        row["metric"]: Interval(row["value"], row.get("low", unknown), row.get("high", unknown))
        for row in table
        if row["value"] is not None
    }


def _described(evaluation: Dataset) -> str:
    inputs, split = evaluation.manifest.inputs, evaluation.manifest.config.get("split")
    on = inputs.get("examples") or inputs.get("tokens")
    return f"{inputs['model']} was judged on the {split} split of {on}"


# What each metric sums


@dataclass(frozen=True)
class Measure:
    """A metric of two models as a function of sums over items.

    rows: of either model, (N, K) quantities of each item.
    right: for a share of items, whether each model got each right.
    """

    rows: Sequence[Rows]
    of_sums: OfSums
    right: Sequence[NDArray[np.bool_]] = ()


NOT_ACROSS_TOKENIZERS = {"loss", "perplexity"}  # a token of one is not a token of the other


def _language(a: pa.Table, b: pa.Table, statistics: Mapping[str, Any]) -> dict[str, Measure]:
    rows = [_columns(each, "model_loss", "tokens", "bytes", "words") for each in (a, b)]

    def loss(sums: Rows) -> Rows:
        return sums[..., 0] / sums[..., 1]

    measures = {"bits_per_byte": Measure(rows, lambda sums: sums[..., 0] / math.log(2) / sums[..., 2])}

    def exponential(column: int) -> OfSums:
        return lambda sums: np.exp(np.minimum(sums[..., 0] / sums[..., column], 700))

    for name, column in (("byte_perplexity", 2), ("word_perplexity", 3)):
        if rows[0][:, column].any():
            measures[name] = Measure(rows, exponential(column))
    if a["tokens"].equals(b["tokens"]):
        measures["loss"] = Measure(rows, loss)
        measures["perplexity"] = Measure(rows, lambda sums: np.exp(np.minimum(loss(sums), 700)))
    return measures


def _classification(a: pa.Table, b: pa.Table, statistics: Mapping[str, Any]) -> dict[str, Measure]:
    truth = np.array(a["truth"].to_pylist())
    said = [np.array(each["model_label"].to_pylist()) for each in (a, b)]
    labels = sorted({*truth, *said[0], *said[1]})
    hits = [_hits(truth, each, labels) for each in said]
    right = [each == truth for each in said]
    measures = {"accuracy": Measure(hits, lambda sums: _by_class(sums)[0].sum(-1) / len(truth), right)}
    if (positive := statistics.get("positive")) in labels:
        at = labels.index(positive)
        for name in ("precision", "recall", "f1"):
            measures[name] = Measure(hits, lambda sums, name=name: class_ratios(*_by_class(sums))[name][..., at])  # type: ignore[misc]
    measures["f1_macro"] = Measure(hits, _mean_f1)
    if len(set(truth)) > 1:
        classes = [labels.index(label) for label in sorted(set(truth))]
        measures["balanced_accuracy"] = Measure(
            hits, lambda sums: class_ratios(*_by_class(sums))["recall"][..., classes].mean(-1)
        )
    return measures


def _hits(truth: NDArray, said: NDArray, labels: Sequence[str]) -> Rows:
    """(N, 3 · classes): of each class, whether the item was rightly put into it, was put into it, belongs to it."""
    predicted, real = (np.stack([each == label for label in labels], 1) for each in (said, truth))
    return np.concatenate([predicted & real, predicted, real], 1).astype(np.float64)


def _by_class(sums: Rows) -> tuple[Rows, Rows, Rows]:
    right, said, real = np.split(sums, 3, axis=-1)  # each (..., classes)
    return right, said, real


def _mean_f1(sums: Rows) -> Rows:
    right, said, real = _by_class(sums)
    seen = said + real > 0
    return (class_ratios(right, said, real)["f1"] * seen).sum(-1) / seen.sum(-1)


def _instruction(a: pa.Table, b: pa.Table, statistics: Mapping[str, Any]) -> dict[str, Measure]:
    responses = [response.strip() for response in a["response"].to_pylist()]
    answers = [measure_answers(each["model_answer"].to_pylist(), responses) for each in (a, b)]
    measures = {}
    if a["tokens"].equals(b["tokens"]):  # the same tokenizer, and the same responses fit into both contexts
        losses = [_columns(each, "model_loss", "tokens") for each in (a, b)]
        measures["loss"] = Measure(losses, lambda sums: sums[..., 0] / sums[..., 1])
    for name in ("chrf", "rouge_l", "repetition", "distinct_1", "distinct_2"):
        measures[name] = Measure([each[name].rows for each in answers], answers[0][name].of_sums)
    if "exact_match" in answers[0]:
        rows = [each["exact_match"].rows for each in answers]
        right = [each[each[:, 1] > 0, 0] > 0 for each in rows]  # of the items that have a short answer
        measures["exact_match"] = Measure(rows, answers[0]["exact_match"].of_sums, right)
    return measures


def _choice(a: pa.Table, b: pa.Table, statistics: Mapping[str, Any]) -> dict[str, Measure]:
    measures = {}
    for name, column in (("accuracy", "model_right"), ("accuracy_normalised", "model_right_normalised")):
        right = [each[column].to_numpy() for each in (a, b)]
        rows = [np.stack([each, np.ones(len(each))], 1).astype(np.float64) for each in right]
        measures[name] = Measure(rows, lambda sums: sums[..., 0] / sums[..., 1], right)
    return measures


def _columns(table: pa.Table, *names: str) -> Rows:
    return np.stack([table[name].to_numpy().astype(np.float64) for name in names], 1)


MEASURES: Mapping[str, Callable[[pa.Table, pa.Table, Mapping[str, Any]], dict[str, Measure]]] = {
    "language": _language,
    "classification": _classification,
    "instruction": _instruction,
    "choice": _choice,
}
