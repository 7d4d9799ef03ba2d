"""The flows: the whole chain as `run`, and one flow per step that carries the chain that far."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import prefect
from prefect import State, flow
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.console import say
from flows.home import Home
from flows.label import NO_LABEL, Label
from flows.orchestration.artifacts import publish_chain
from flows.orchestration.conductor import Conductor
from flows.orchestration.endings import crash_dead_runs, end_mlflow_runs, living_run
from flows.orchestration.finished import MADE_BEFORE, find_finished, is_evaluated, take_resolved
from flows.orchestration.gate import Gate, evaluate_registered
from flows.orchestration.run_log import lines_in_prefect
from flows.orchestration.run_title import tag_flow_run, title_of_flow_run
from flows.orchestration.signals import stop_on_signals
from flows.orchestration.task_runners import task_runner
from flows.orchestration.warm_start import find_base
from flows.outcome import Outcome
from flows.tracking.outages import MLFLOW, PREFECT, waiting_for
from flows.tracking.tracker import Tracker
from pipelines.addresses import clean_errors
from pipelines.catalog.registry import ModelVersion
from pipelines.chain import Evaluated, Perform, chain, report_on
from pipelines.config import RunConfig
from pipelines.errors import ClearError, cause_of
from pipelines.new_data import NewDataRun, evaluate_new
from pipelines.report.report import FILE as REPORT_FILE
from pipelines.store.disks import full_disk
from pipelines.store.step import Stopped

Evaluate = Callable[[Perform, Home], list[Evaluated]]
Outcomes = list[Outcome] | State[Any]


def _conduct(
    config: RunConfig,
    label: Label,
    evaluate: Evaluate,
    is_finished: Callable[[Home], bool] = lambda home: False,
    rebuild: bool = False,
    promote: bool = True,
    again: bool = False,
) -> Outcomes:
    """Do what every flow does around its steps: sweep, track, stop on signals, report, promote and sum up.

    Args:
        is_finished: returns whether nothing is left to do. It is asked for deployments; the command line knows.
    """
    home = Home.from_environment()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.compiled))
    home.store.sweep()
    tags = {
        "prefect.flow_run_id": str(flow_run.id),
        "prefect.flow_run_name": str(flow_run.name),
        "mlflow.source.name": f"tokenmill {flow_run.flow_name}",
    }
    try:
        with _surroundings(home) as should_stop:
            tag_flow_run(config, label)
            if deployment.id and not rebuild:
                crash_dead_runs(home.store)  # the locks of runs that have ended go
                if is_finished(home):
                    return Completed(message=MADE_BEFORE)
            with living_run(home.store, str(flow_run.id)):
                tracker = Tracker(home, config.experiment)
                with tracker.flow_run(config, tags, label):
                    conductor = Conductor(home.store, tracker, rebuild, should_stop, take_resolved(), tracker.done)
                    evaluated = evaluate(conductor.perform, home)
                    made = [outcome.dataset for outcome in conductor.done]
                    report = conductor.perform(report_on(config, made, evaluated))
                    if promote:
                        conductor.done += Gate(conductor.perform, home, tracker, config, again).pass_all(evaluated)
                    publish_chain(config.name, conductor.done, tracker.summarise(report.file(REPORT_FILE)))
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    except Exception as error:
        reason = cause_of(error, ClearError) or full_disk([home.path], error)
        if not reason:
            raise
        return Failed(message=str(reason), data=error)  # Prefect would log its own calls with an error that is raised
    return conductor.done


@contextmanager
def _surroundings(home: Home) -> Iterator[Callable[[], bool]]:
    """Log lines in Prefect, wait for servers and react to signals; yield whether the run was asked to end."""
    with (
        clean_errors(),
        lines_in_prefect(),
        stop_on_signals() as should_stop,
        waiting_for(PREFECT, os.environ.get("PREFECT_API_URL", ""), should_stop),
        waiting_for(MLFLOW, home.mlflow_uri, should_stop),
    ):
        yield should_stop


def _our_flow(**names: Any) -> Any:
    hooks: list[Any] = [end_mlflow_runs]
    ends: Any = {"on_failure": hooks, "on_crashed": hooks, "on_cancellation": hooks}
    names["flow_run_name"] = title_of_flow_run
    return flow(**names, **ends, task_runner=task_runner(), persist_result=False, retries=0)


def _flow(name: str, until: str, description: str) -> prefect.Flow[..., Any]:
    def conduct(config: RunConfig, rebuild: bool = False, label: Label = NO_LABEL) -> Outcomes:
        """Carry out the chain up to this step.

        Args:
            config: The run, as its TOML file says it.
            rebuild: Run every step again and put its result in the old one's place.
            label: What tells this run from others.
        """

        def evaluate(perform: Perform, home: Home) -> list[Evaluated]:
            return chain(perform, config, until, find_base(config, until, home), say)

        is_finished = lambda home: bool(find_finished(config, until, home))  # noqa: E731
        return _conduct(config, label, evaluate, is_finished, rebuild)

    conduct.__name__ = conduct.__qualname__ = name
    return _our_flow(name=name, description=description)(conduct)


run = _flow("run", "evaluate", "The whole chain: raw text to evaluated, fine-tuned models, the better ones promoted.")
ingest = _flow("ingest", "ingest", "Source files to a corpus.")
tokenize = _flow("tokenize", "tokenize", "Source files to token shards.")
sample = _flow("sample", "sample", "Source files to training samples.")
pretrain = _flow("pretrain", "pretrain", "Source files to a pretrained model.")
finetune = _flow("finetune", "finetune", "Source files to fine-tuned models.")
evaluate = _flow("evaluate", "evaluate", "Every model of the run judged on held-out data, the better ones promoted.")


@_our_flow(name="reevaluate")
def reevaluate(config: RunConfig, label: Label = NO_LABEL) -> Outcomes:
    """Evaluate the champions and their challengers on the run's held-out data as it is today. Trains nothing.

    Args:
        config: The run, as its TOML file says it.
        label: What tells this run from others.
    """
    evaluate = _registered(config, lambda versions: [v for v in versions if v.aliases or v.version in v.history[-2:]])
    return _conduct(config, label, evaluate, lambda home: is_evaluated(config, evaluate, home), promote=False)


@_our_flow(name="promote")
def promote(config: RunConfig, again: bool = False, label: Label = NO_LABEL) -> Outcomes:
    """Compare the newest model of each name with its champion, and promote the better ones. Trains nothing.

    Args:
        config: The run, as its TOML file says it; its `promote` table says what better means.
        again: Decide also about models that were decided about before.
        label: What tells this run from others.
    """
    asked = config.model_copy(update={"promote": config.promote.model_copy(update={"enabled": True})})
    return _conduct(asked, label, _registered(config, lambda versions: versions[-1:]), again=again)


@_our_flow(name="evaluate-new")
def evaluate_data(config: NewDataRun, label: Label = NO_LABEL) -> Outcomes:
    """Evaluate a published model on data that no run has read. Trains and promotes nothing.

    Args:
        config: The model and the data.
        label: What tells this run from others.
    """
    run = cast(RunConfig, config)  # it has what every flow reads: name, experiment, report
    return _conduct(run, label, lambda perform, home: [evaluate_new(perform, config, home.store, say)], promote=False)


def _registered(config: RunConfig, which: Callable[[Sequence[ModelVersion]], Sequence[ModelVersion]]) -> Evaluate:
    return lambda perform, home: evaluate_registered(perform, config, home, which)


FLOWS = {
    each.name: each
    for each in (run, ingest, tokenize, sample, pretrain, finetune, evaluate, evaluate_data, reevaluate, promote)
}
