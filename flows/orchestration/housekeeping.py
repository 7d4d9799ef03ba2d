"""Keeping a home tidy: a flow to run on a schedule, beside the work and never in its way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from filelock import Timeout
from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.console import say
from flows.home import Home
from pipelines.catalog import runs
from pipelines.catalog.registry import registered
from pipelines.catalog.unused import unused
from pipelines.store.dataset import Dataset


@flow(name="housekeeping", persist_result=False)
def housekeeping(checkpoint_days: float = 30, keep_days: float | None = None, dry_run: bool = False) -> list[str]:
    """Delete what dead runs left behind, and, if asked to, datasets that nothing needs any more.

    Args:
        checkpoint_days: Checkpoints of an unfinished training are kept for so long after it last wrote one.
        keep_days: Datasets that were built or used within so many days are kept, as is all that a model with an alias
            or the newest version of something needs. Unset keeps all.
        dry_run: Say what would be deleted, and delete nothing but leftovers.
    """
    home = Home.from_environment()
    swept = home.store.sweep(checkpoint_days)
    home.store.sweep_bucket()
    removed = tidy(home, keep_days, dry_run) if keep_days is not None else []
    what = "would be deleted" if dry_run else "deleted"
    lines = "".join(f"- `{name}`\n" for name in [*swept, *map(str, removed)])
    said = f"{len(swept)} leftover folders deleted; {len(removed)} datasets of {size(removed)} {what}."
    create_markdown_artifact(f"{said}\n\n{lines}", key="housekeeping")
    return [*swept, *map(str, removed)]


def tidy(home: Home, keep_days: float, dry_run: bool) -> list[Dataset]:
    """Delete unreferenced datasets, or only find them. Does nothing while a run is going on; none begins meanwhile.

    Raises:
        InputError: MLflow, which knows what is in use, cannot be read.
    """
    with home.starting:
        known = runs.read("runs", home.mlflow_uri).to_pylist()
        if any(run["status"] == "RUNNING" and _lives(home, run) for run in known):
            say("a run is going on; datasets are tidied another time")
            return []
        datasets = home.store.list()
        found = unused(datasets, registered(home.mlflow_uri), known, datetime.now(UTC), keep_days)
        # The newest first: should this end midway, nothing that is left was made from what is gone.
        for dataset in [] if dry_run else reversed(found):
            home.store.remove(dataset)
    return found


def size(datasets: list[Dataset]) -> str:
    """Bytes of datasets, in megabytes."""
    return f"{sum(dataset.manifest.bytes for dataset in datasets) / 1e6:,.1f} MB"


def _lives(home: Home, run: dict[str, Any]) -> bool:
    """Whether a flow run's process is there: it holds the run's lock. Of another machine's run only that one knows."""
    if json.loads(run["tags"] or "{}").get("tokenmill.home", home.label) != home.label:
        return True
    try:
        with home.store.lock(run["run_id"]).acquire(timeout=0):
            return False
    except Timeout:
        return True
