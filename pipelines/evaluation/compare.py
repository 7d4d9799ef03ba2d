"""Two models on the same held-out items: every metric side by side, with tests of the differences.

Two evaluations can be compared if their items are the same. Their predictions are then measured again, item by item,
and summed over the same resamples of the items.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.catalog.model_versions import is_on_new_data
from pipelines.errors import InputError
from pipelines.evaluation.metrics import Measure, measures
from pipelines.evaluation.results import MODEL, read_metrics
from pipelines.evaluation.significance import Interval, Paired, mcnemar, paired_bootstrap, randomisation
from pipelines.evaluation.tasks import METRICS, TASKS, TRIAL, Task
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Ref
from pipelines.store.store import Store


@dataclass(frozen=True)
class Difference(Paired):
    """A metric of two models on the same items.

    Attributes:
        metric: named `stage/metric`, or `stage/metric/source/NAME` for a part of the items.
        test: how p was found.
    """

    metric: str
    test: str = ""

    @property
    def gain(self) -> float:
        """How much better the second model is: the difference, or its opposite if lower is better."""
        known = METRICS.get(self.metric.split("/")[1])
        return -self.difference.value if known and known.lower_is_better else self.difference.value

    def verdict(self, significance: float = 0.05) -> str:
        """Say whether the second model is better or worse, or that no difference is shown."""
        if self.p is None or self.p >= significance or not self.gain:
            return "no difference shown"
        return "better" if self.gain > 0 else "worse"


def compare(first: Dataset, second: Dataset, significance: float | None = None) -> list[Difference]:
    """Compare every metric of two evaluations, with a paired test if the predictions give the metric.

    Args:
        first, second: the evaluations, or two trials.
        significance: use the randomisation test, whose level is exact, with enough draws for this level.

    Raises:
        InputError: the evaluations are not of the same items.
    """
    if not same_items(first, second):
        raise InputError(f"{_described(first)} and {_described(second)}: only the same items can be compared.")
    task = _task(first)
    tables = [_predictions(each) for each in (first, second)]
    same_tokens = "tokens" not in tables[0].column_names or tables[0]["tokens"].equals(tables[1]["tokens"])
    tested = {name: task.metrics[name] for name in task.compared if same_tokens or not task.metrics[name].per_token}
    a, b = (measures(tested, task.items(_columns(table), first.manifest.statistics)) for table in tables)
    stage = stage_of(first)
    found = []
    for name, paired in paired_bootstrap(a, b).items():
        result = Difference(**vars(paired), metric=f"{stage}/{name}", test="paired bootstrap")
        if tested[name].right_or_wrong:
            result = replace(result, p=mcnemar(_right(a[name]), _right(b[name])), test="McNemar")
        elif significance and (p := randomisation(a[name], b[name], significance)) is not None:
            result = replace(result, p=p, test="randomisation")
        found.append(result)
    values = [read_metrics(each).get(MODEL, {}) for each in (first, second)]
    for name in values[0]:
        metric = task.metrics.get(name.partition("/")[0])
        incomparable = task.stage == "test" and not same_tokens and metric and metric.per_token
        if name in values[1] and name not in a and not incomparable:
            one, other = values[0][name], values[1][name]
            difference = Interval(other.value - one.value, math.nan, math.nan)
            found.append(Difference(one, other, difference, None, f"{stage}/{name}"))
    return found


def _right(measure: Measure) -> NDArray[np.bool_]:
    """Return whether each item is right, without the items that do not count; rows are (right, counts)."""
    rows = np.asarray(measure.rows)
    return rows[rows[:, 1] > 0, 0] > 0


# Evaluations of the same items


def evaluations_of(model: Ref, evaluations: Sequence[Dataset]) -> list[Dataset]:
    """Return the evaluations of exactly these weights, newest first, and behind them those on new data."""
    found = [each for each in reversed(evaluations) if each.manifest.inputs.get("model") == model]
    return sorted(found, key=is_on_new_data)


def matching(models: Sequence[Ref], store: Store) -> list[Dataset]:
    """Return an evaluation of each model, all of the same items. The first model's is the newest possible.

    Raises:
        InputError: a model has not been evaluated, or there are no evaluations of the same items.
    """
    everything = store.list("evaluation")
    candidates = [evaluations_of(model, everything) for model in models]
    for model, evaluations in zip(models, candidates, strict=True):
        if not evaluations:
            raise InputError(f"{model} has not been evaluated; `tokenmill evaluate CONFIG` does that.")
    for first in candidates[0]:
        others = [next((each for each in some if same_items(first, each)), None) for some in candidates[1:]]
        if all(others):
            return [first, *filter(None, others)]
    newest = candidates[0][0]
    other = next(some[0] for some in candidates[1:] if not any(same_items(newest, each) for each in some))
    raise InputError(
        f"{_described(newest)} and {_described(other)}: only models judged on the same can be compared. "
        "`tokenmill reevaluate CONFIG` judges challenger, champion and the one before on the data as it is now."
    )


def same_items(a: Dataset, b: Dataset) -> bool:
    """Return whether two evaluations asked their models the same."""
    if a.manifest.step != b.manifest.step or a.manifest.config.get("split") != b.manifest.config.get("split"):
        return False
    columns = _task(a).question
    return bool(_predictions(a, columns).equals(_predictions(b, columns)))


def stage_of(evaluation: Dataset) -> str:
    """Return the first part of the names of an evaluation's or a trial's metrics."""
    return TRIAL if evaluation.ref.kind == TRIAL else _task(evaluation).stage


def items_digest(evaluation: Dataset) -> str:
    """Return a digest of what an evaluation asked its model. It is the same if `same_items` holds."""
    asked = _predictions(evaluation, _task(evaluation).question).to_pydict()
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _task(evaluation: Dataset) -> Task:
    return TASKS[str(evaluation.manifest.statistics["task"])]


def _predictions(evaluation: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    return pq.read_table(evaluation.file("predictions.parquet"), columns=list(columns) if columns else None)


def _columns(table: pa.Table) -> dict[str, list[Any]]:
    """Return the columns of the items and of the model's predictions."""
    return {name.removeprefix(f"{MODEL}_"): values for name, values in table.to_pydict().items()}


def judged_on(evaluation: Dataset) -> str:
    """Name the items of an evaluation: held-out ones, or those of a task."""
    inputs, split = evaluation.manifest.inputs, evaluation.manifest.config.get("split")
    held_out = inputs.get("examples") or inputs.get("tokens")
    return f"{split} split of {held_out}" if split else f"task {evaluation.ref.name}"


def _described(evaluation: Dataset) -> str:
    return f"{evaluation.manifest.inputs['model']} was judged on the {judged_on(evaluation)}"


def shown(interval: Interval) -> str:
    """Format a value with its interval, if it has one."""
    if interval.low is None or math.isnan(interval.low):
        return f"{interval.value:.4g}"
    return f"{interval.value:.4g} [{interval.low:.4g}, {interval.high:.4g}]"
