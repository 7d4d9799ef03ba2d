"""Whether a run has nothing to do: all that it would make is published, MLflow knows of it, and the gate has decided.

Then neither Prefect nor MLflow is imported or gets a run in which nothing was done. The store and MLflow's database
are asked anew each time, so nothing has to be remembered from run to run that could be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows.home import Home
from flows.orchestration.progress import warn_of_other_code
from flows.outcome import Outcome
from flows.tracking.registry import decision_on
from gpt.config import Config
from pipelines.catalog.registry import CHAMPION, registered
from pipelines.catalog.runs import states
from pipelines.chain import Judged, chain, reported
from pipelines.config import RunConfig
from pipelines.errors import InputError
from pipelines.report.report import REPORT
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType


def find_finished(config: RunConfig, until: str, home: Home) -> list[Outcome]:
    """What each step of a run came to, in the chain's order, if there is nothing left to do; else nothing.

    Args:
        until: the last step, as `chain` takes it.
    """
    home.store.sweep()
    outcomes: list[Outcome] = []
    by_other_code: list[Dataset] = []

    def find(type: StepType, name: str, config: Config, inputs: Mapping[str, Dataset]) -> Dataset:
        step = type.using(name, config, {role: dataset.ref for role, dataset in inputs.items()})
        dataset = home.store.find(step)
        if not dataset:
            raise Unfinished
        if home.store.changed_code(step, dataset):
            by_other_code.append(dataset)
        outcomes.append(Outcome(type.name, dataset, 0.0, reused=True))
        return dataset

    if config.base:
        return []  # what to go on from may be another model by now
    try:
        judged = chain(find, config, until)
        find(REPORT, config.name, config.report, reported([each.dataset for each in outcomes], judged))
        made = [each.dataset for each in outcomes]
        _check_ended(config.name, made, home)
        outcomes += _decisions(made, judged, home)
    except (Unfinished, InputError, OSError):
        return []  # whoever carries it out comes to the same end, where it is seen and may be tried again
    for dataset in by_other_code:
        warn_of_other_code(dataset)
    return outcomes


class Unfinished(Exception):
    """There is something left to do."""


def _decisions(made: Sequence[Dataset], judged: Sequence[Judged], home: Home) -> list[Outcome]:
    """What the gate has decided about each model that was judged."""
    versions = {(each.name, each.fingerprint): each for each in registered(home.mlflow_uri)}
    reigning = {each.name for each in versions.values() if CHAMPION in each.aliases}
    models = [dataset.ref for dataset in made if dataset.ref.kind == "model"]
    if not all((model.name, model.fingerprint) in versions and model.name in reigning for model in models):
        raise Unfinished
    decided = []
    for each in judged:
        model = each.model.ref
        version = versions.get((model.name, model.fingerprint))
        said = decision_on(version) if version else None
        if not said:
            raise Unfinished
        decided.append(Outcome("promote", each.model, 0.0, True, said))
    return decided


def _check_ended(experiment: str, made: Sequence[Dataset], home: Home) -> None:
    """Raises:
    Unfinished: a run of this home did not end, or ended otherwise than well.
    """
    runs = states(home.mlflow_uri, experiment)
    flows = [run.status for run in runs if run.kind == "flow"]
    status = {run.run_id: run.status for run in runs}
    built_by = [dataset.manifest.built.get("mlflow_run_id", "") for dataset in made]
    if (
        flows[-1:] != ["FINISHED"]
        or any(run.status == "RUNNING" for run in runs if run.home == home.label)
        or any(status.get(run_id, "FINISHED") != "FINISHED" for run_id in built_by)
        or home.store.locks("flow-")  # of a flow of which Prefect was not told the end
    ):
        raise Unfinished
