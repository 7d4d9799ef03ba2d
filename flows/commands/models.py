"""The table of registered models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.home import Home
from flows.tracking.registry import DECIDED, DECISION, WHY
from pipelines.catalog.registry import registered
from pipelines.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

# A list


def models_table(home: Home, name: str | None = None) -> Table:
    """Every registered version with its aliases, the metric that decides, and what was decided when and why.

    Raises:
        InputError: nothing is registered, or nothing of that name.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from pipelines.evaluation.compare import evaluations_of
    from pipelines.evaluation.promotion import PromoteConfig

    versions = registered(home.mlflow_uri, name)
    if not versions:
        what = f"MLflow's registry has no model {name!r}" if name else "No model is registered yet"
        raise InputError(f"{what}; `tokenmill run CONFIG` makes and registers models.")
    published = {dataset.ref.fingerprint: dataset for dataset in home.store.list("model")}
    evaluations = home.store.list("evaluation")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "alias", "metric", "made", "decision"):
        table.add_column(column, no_wrap=column in ("model", "made"))
    for each in versions:
        model = published.get(each.fingerprint or "")
        metric = "[dim]no longer in the store[/]"
        if model:
            judged = evaluations_of(model.ref, evaluations)
            key = PromoteConfig().criterion(str(model.manifest.statistics["task"])).metric
            values = [e.manifest.statistics[key] for e in judged if key in e.manifest.statistics]
            metric = f"{key} {values[0]:.4g}" if values else "not evaluated"
        decision = " ".join(filter(None, (each.tags.get(DECISION), each.tags.get(DECIDED, "")[:16].replace("T", " "))))
        why = escape(each.tags.get(WHY, ""))
        table.add_row(
            str(each),
            ", ".join(each.aliases),
            metric,
            each.created.astimezone().strftime("%Y-%m-%d %H:%M"),
            f"{decision}: {why}" if why else decision,
        )
    return table
