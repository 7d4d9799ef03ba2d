"""Housekeeping: a flow that tidies a home on a schedule and never disturbs a run."""

import json
from datetime import UTC, datetime
from typing import Any

from prefect import State, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.console import say
from flows.home import Home
from flows.orchestration.run_log import lines_in_prefect
from pipelines.catalog import runs
from pipelines.catalog.registry import registered
from pipelines.catalog.unused import unused
from pipelines.errors import InputError
from pipelines.numbers import counted, size
from pipelines.store.dataset import Dataset


@flow(name="housekeeping", flow_run_name="housekeeping", persist_result=False)
def housekeeping(
    checkpoint_days: float = 30, keep_days: float | None = None, dry_run: bool = False
) -> State[list[str]]:
    """Delete the leftovers of dead runs and, on request, datasets that nothing needs.

    Args:
        checkpoint_days: Days to keep the checkpoints of an unfinished training after its last one.
        keep_days: Keep datasets that were built or used within this many days, and everything that a model with an
            alias or the newest version of something needs. Unset keeps all.
        dry_run: Only show which datasets would be deleted; leftovers are deleted all the same.
    """
    home = Home.from_environment()
    with lines_in_prefect():
        swept = home.store.sweep(checkpoint_days)
        home.store.sweep_bucket()
        removed = tidy(home, keep_days, dry_run) if keep_days is not None else []
        freed = sum(dataset.manifest.bytes for dataset in removed)
        what = "would be deleted" if dry_run else "deleted"
        names = [*swept, *map(str, removed)]
        leftovers, datasets = counted(len(swept), "leftover folder"), counted(len(removed), "dataset")
        summary = f"{leftovers} deleted; {datasets} of {size(freed)} {what}."
        say(summary)
    if names:
        lines = "".join(f"- `{name}`\n" for name in names)
        create_markdown_artifact(f"{summary}\n\n{lines}", key="housekeeping")
    return Completed(message=summary, data=names)


def tidy(home: Home, keep_days: float, dry_run: bool) -> list[Dataset]:
    """Delete unreferenced datasets, or only find them; do nothing while a run is active. No run begins meanwhile.

    Raises:
        InputError: MLflow cannot be read, which knows the datasets in use, or a manifest is damaged.
    """
    with home.starting:
        if runs.is_missing(home.mlflow_uri):
            raise InputError("MLflow's database is missing, which knows the models in use; nothing is deleted.")
        known = runs.read("runs", home.mlflow_uri).to_pylist()
        if any(run["status"] == "RUNNING" and _is_alive(home, run) for run in known):
            say("a run is going on; datasets are tidied another time")
            return []
        datasets = home.store.list(complete=True)  # nobody knows what a dataset with a damaged manifest was made from
        found = unused(datasets, registered(home.mlflow_uri), known, datetime.now(UTC), keep_days)
        # The newest first: if this ends midway, no remaining dataset was made from a deleted one.
        for dataset in [] if dry_run else reversed(found):
            home.store.remove(dataset)
    return found


def _is_alive(home: Home, run: dict[str, Any]) -> bool:
    """Return whether a flow run's process holds the run's lock; another machine's run is assumed to be alive."""
    tags = json.loads(run["tags"] or "{}")
    return tags.get("tokenmill.home", home.label) != home.label or home.store.is_locked(run["run_id"])
