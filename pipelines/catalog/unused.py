"""Find datasets that can be deleted: nothing in use, new or recently used depends on them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pipelines.catalog.registry import ModelVersion
from pipelines.store import lineage
from pipelines.store.dataset import Dataset


def unused(
    datasets: Sequence[Dataset],
    versions: Iterable[ModelVersion],
    runs: Iterable[Mapping[str, Any]],
    now: datetime,
    keep_days: float,
) -> list[Dataset]:
    """Return the datasets that can be deleted.

    These are kept, with everything that they were made from:

    - the newest version of each name;
    - models with an alias in the registry, and the champion before the present one, for a rollback;
    - the newest evaluation of each such model, and its newest trial;
    - datasets that were built in the last days, or that a run of the last days built or reused.

    Args:
        datasets: every published dataset, the oldest first.
        versions: MLflow's registry.
        runs: MLflow's runs, with `started_at` and `tags`.
        keep_days: how many days count as the last ones.
    """
    since = now - timedelta(days=keep_days)
    newest = {(dataset.ref.kind, dataset.ref.name): dataset for dataset in datasets}
    wanted = {dataset.ref.fingerprint for dataset in newest.values()}
    wanted |= {each.ref.fingerprint for each in datasets if each.manifest.built_at >= since}
    in_use = [each for each in versions if each.aliases or each.version in each.history[-2:]]
    models = {each.fingerprint for each in in_use if each.fingerprint}
    for kind in ("evaluation", "trial"):
        results = {each.manifest.inputs["model"].fingerprint: each for each in datasets if each.ref.kind == kind}
        wanted |= {results[model].ref.fingerprint for model in models if model in results}
    wanted |= models | _used(datasets, runs, since)
    needed = {str(dataset.ref) for dataset in datasets if dataset.ref.fingerprint in wanted}
    needed |= {edge.input for edge in lineage.edges(datasets) if edge.output in needed}
    return [dataset for dataset in datasets if str(dataset.ref) not in needed]


def _used(datasets: Sequence[Dataset], runs: Iterable[Mapping[str, Any]], since: datetime) -> set[str]:
    """Return what recent runs built (a step's run names a fingerprint) or reused (a flow's run names the builder's)."""
    built_by = {each.manifest.built.get("mlflow_run_id"): each.ref.fingerprint for each in datasets}
    used = set()
    for run in runs:
        if run["started_at"] is None or run["started_at"] >= since:
            tags = json.loads(run["tags"] or "{}")
            used.add(tags.get("tokenmill.fingerprint"))
            used |= {built_by.get(value) for key, value in tags.items() if key.startswith("tokenmill.reused.")}
    return {fingerprint for fingerprint in used if fingerprint}
