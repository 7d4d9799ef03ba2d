"""Whether a run has nothing to do: every result is published, MLflow knows of it, and the gate has decided.

Then MLflow gets no empty run, and the command line imports neither it nor Prefect. The store and MLflow's database
are read each time, so no state between runs can be wrong.
"""

from collections.abc import Callable, Sequence

from flows.home import Home
from flows.orchestration.progress import warn_of_other_code
from flows.orchestration.warm_start import find_base
from flows.outcome import Outcome
from flows.tracking.registry import decision_on, undecided
from pipelines.catalog.registry import registered
from pipelines.catalog.runs import former_artifacts, states
from pipelines.chain import Evaluated, Perform, Resolved, chain, report_on, resolve
from pipelines.config import RunConfig
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step
from pipelines.store.store import Store

MADE_BEFORE = "All of it has been made before."

_resolved: Resolved = []


def find_finished(config: RunConfig, until: str, home: Home) -> list[Outcome]:
    """Return the outcome of each step of a run, in the chain's order, if nothing is left to do; else an empty list.

    Args:
        until: the last step, as `chain` takes it.
    """
    global _resolved
    home.store.sweep()
    try:
        base = find_base(config, until, home, lambda sentence: None)
        _resolved = resolve(home.store.find, config, until, base)
        made = [dataset for _, dataset in _resolved if dataset]
        if len(made) < len(_resolved) or not _has_ended(config.name, made, home):
            return []
        results = iter(made)
        evaluated = chain(lambda step: next(results), config, until, base, check=False)
        decisions = _decisions(made, evaluated, home, config.promote.enabled)
    except (InputError, OSError):
        return []  # the run meets the same error, shows it and may try again
    if decisions is None:
        return []
    for step, dataset in _resolved:
        if dataset and home.store.changed_code(step, dataset):
            warn_of_other_code(dataset)
    return [*(Outcome(each.manifest.step, each, 0.0, reused=True) for each in made), *decisions]


def take_resolved() -> Resolved:
    """Return what `find_finished` has just looked up in this process, for the run that follows; only once."""
    global _resolved
    taken, _resolved = _resolved, []
    return taken


def _decisions(
    made: Sequence[Dataset], evaluated: Sequence[Evaluated], home: Home, enabled: bool
) -> list[Outcome] | None:
    """Return what the gate has decided about each evaluated model, or None if anything is left to decide."""
    versions = {(each.name, each.fingerprint): each for each in registered(home.mlflow_uri)}
    models = (dataset.ref for dataset in made if dataset.ref.kind == "model")
    if not all((model.name, model.fingerprint) in versions for model in models):
        return None
    decided = []
    for each in evaluated:
        version = versions.get((each.model.ref.name, each.model.ref.fingerprint))
        if not version:
            return None
        decision = decision_on(version) or (None if enabled else undecided(version))
        if not decision:
            return None
        decided.append(Outcome("promote", each.model, 0.0, True, decision))
    return decided


def is_evaluated(config: RunConfig, evaluate: Callable[[Perform, Home], list[Evaluated]], home: Home) -> bool:
    """Return whether an evaluation of registered models has nothing to do.

    Args:
        evaluate: evaluates the models that it picks.
    """
    made: list[Dataset] = []
    look_up = published_only(home.store, made)
    try:
        look_up(report_on(config, made, evaluate(look_up, home)))
        return _has_ended(config.name, made, home)
    except (LookupError, InputError, OSError):
        return False


def published_only(store: Store, found: list[Dataset]) -> Perform:
    """Return a function that finds what a step has published and adds it to a list. It makes nothing.

    The function raises a LookupError if the step has to be made.
    """

    def look_up(step: Step) -> Dataset:
        if (dataset := store.find(step)) is None:
            raise LookupError(f"{step} has to be made")
        found.append(dataset)
        return dataset

    return look_up


def _has_ended(experiment: str, made: Sequence[Dataset], home: Home) -> bool:
    """Return whether the last run of the experiment ended well, and no run of this home is unfinished."""
    database = home.artifacts.with_name("mlflow.db")
    if home.mlflow_uri == f"sqlite:///{database}" and former_artifacts(database):
        return False  # the home was moved, and MLflow has to follow it
    runs = states(home.mlflow_uri, experiment)
    flows = [run.status for run in runs if run.kind == "flow"]
    status = {run.run_id: run.status for run in runs}
    built_by = [dataset.manifest.built.get("mlflow_run_id", "") for dataset in made]
    return (
        flows[-1:] == ["FINISHED"]
        and not any(run.status == "RUNNING" for run in runs if run.home == home.label)
        and all(status.get(run_id, "FINISHED") == "FINISHED" for run_id in built_by)
        and not home.store.locks("flow-")  # of a flow whose end Prefect does not know
    )
