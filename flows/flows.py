"""The flows: the whole chain as `run`, and one flow per step that carries the chain that far."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import prefect
from prefect import State, flow
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.console import say
from flows.home import Home
from flows.orchestration.artifacts import publish_chain
from flows.orchestration.conductor import Conductor
from flows.orchestration.endings import end_mlflow_runs, living_run
from flows.orchestration.finished import take_resolved
from flows.orchestration.gate import Gate, evaluate_registered
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
from pipelines.report.report import FILE as REPORT_FILE
from pipelines.store.step import Stopped

Evaluate = Callable[[Perform, Home], list[Evaluated]]


def _conduct(
    config: RunConfig, evaluate: Evaluate, rebuild: bool = False, promote: bool = True, again: bool = False
) -> list[Outcome] | State[None]:
    """Do what every flow does around its steps: sweep, track, stop on signals, report, promote and sum up."""
    home = Home.from_environment()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.compiled))
    home.store.sweep()
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
    try:
        with (
            clean_errors(),
            stop_on_signals() as should_stop,
            waiting_for(PREFECT, os.environ.get("PREFECT_API_URL", ""), should_stop),
            waiting_for(MLFLOW, home.mlflow_uri, should_stop),
            living_run(home.store, str(flow_run.id)),
        ):
            tracker = Tracker(home, config.name)
            with tracker.flow_run(config, tags):
                conductor = Conductor(home.store, tracker, rebuild, should_stop, take_resolved())
                evaluated = evaluate(conductor.perform, home)
                made = [outcome.dataset for outcome in conductor.done]
                report = conductor.perform(report_on(config, made, evaluated))
                if promote:
                    conductor.done += Gate(conductor.perform, home, tracker, config, again).pass_all(evaluated)
                links = tracker.summarise(config.name, conductor.done, report.file(REPORT_FILE))
                publish_chain(config.name, conductor.done, links["report"])
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return conductor.done


def _our_flow(**names: Any) -> Any:
    hooks: list[Any] = [end_mlflow_runs]
    ends: Any = {"on_failure": hooks, "on_crashed": hooks, "on_cancellation": hooks}
    return flow(**names, **ends, task_runner=task_runner(), persist_result=False, retries=0)


def _flow(name: str, until: str, description: str) -> prefect.Flow[..., Any]:
    def conduct(config: RunConfig, rebuild: bool = False) -> list[Outcome] | State[None]:
        """Carry out the chain up to this step.

        Args:
            config: The run, as its TOML file says it.
            rebuild: Run every step again and put its result in the old one's place.
        """

        def evaluate(perform: Perform, home: Home) -> list[Evaluated]:
            base = find_base(config.base, config.name, home) if config.base else None
            return chain(perform, config, until, base, say)

        return _conduct(config, evaluate, rebuild)

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
def reevaluate(config: RunConfig) -> list[Outcome] | State[None]:
    """Evaluate the champions and their challengers on the run's held-out data as it is today. Trains nothing.

    Args:
        config: The run, as its TOML file says it.
    """
    return _conduct(
        config,
        _registered(config, lambda versions: [v for v in versions if v.aliases or v.version in v.history[-2:]]),
        promote=False,
    )


@_our_flow(name="promote")
def promote(config: RunConfig, again: bool = False) -> list[Outcome] | State[None]:
    """Compare the newest model of each name with its champion, and promote the better ones. Trains nothing.

    Args:
        config: The run, as its TOML file says it; its `promote` table says what better means.
        again: Decide also about models that were decided about before.
    """
    asked = config.model_copy(update={"promote": config.promote.model_copy(update={"enabled": True})})
    return _conduct(asked, _registered(config, lambda versions: versions[-1:]), again=again)


def _registered(config: RunConfig, which: Callable[[Sequence[ModelVersion]], Sequence[ModelVersion]]) -> Evaluate:
    return lambda perform, home: evaluate_registered(perform, config, home, which)


FLOWS = {each.name: each for each in (run, ingest, tokenize, sample, pretrain, finetune, evaluate, reevaluate, promote)}
