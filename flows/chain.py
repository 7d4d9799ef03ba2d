"""The flows: the whole chain as `run`, and one flow per step that carries the chain that far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import prefect
from prefect import State, flow
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.base import Base, find_base, with_tokenizer_of
from flows.conductor import Conductor
from flows.endings import crash_dead_runs, show_alive, tell_mlflow
from flows.home import Home
from flows.progress import say
from flows.promote import Gate, Judged, judge_registered
from flows.runners import task_runner
from flows.signals import stop_on_signals
from flows.summary import Outcome, publish_chain
from flows.tracking import Tracker, reaching
from gpt.config import Config
from pipelines.config import ClassificationRun, RunConfig
from pipelines.evaluate_assistant import EVALUATE_ASSISTANT
from pipelines.evaluate_classifier import EVALUATE_CLASSIFIER
from pipelines.evaluate_language import EVALUATE_LANGUAGE
from pipelines.evaluate_task import EVALUATE_TASK
from pipelines.examples import EXAMPLES
from pipelines.finetune_assistant import FINETUNE_ASSISTANT
from pipelines.finetune_classifier import FINETUNE_CLASSIFIER
from pipelines.ingest import INGEST
from pipelines.lessons import LESSONS
from pipelines.mix import MIX
from pipelines.pretrain import PRETRAIN
from pipelines.report import FILE as REPORT_FILE
from pipelines.report import REPORT
from pipelines.sample import SAMPLE
from pipelines.step import StepType, Stopped
from pipelines.store import Dataset
from pipelines.tokenize import TOKENIZE

Perform = Callable[[StepType, str, Config, Mapping[str, Dataset]], Dataset]


def chain(perform: Perform, config: RunConfig, until: str = "evaluate", base: Base | None = None) -> list[Judged]:
    """Every step from source files to evaluated models, in the order of their needs.

    Args:
        perform: (step type, name of the result, config, inputs by role) -> the published result.
        config: the run.
        until: the last step to carry out: ingest, tokenize, sample, pretrain, finetune or evaluate.
        base: the model that pretraining goes on from, if any. Its tokenizer makes the tokens; if it has read this very
            corpus already, there is nothing to train, and it takes the pretrained model's place.

    Returns:
        The models that were evaluated.
    """
    name, data = config.name, config.data
    judged: list[Judged] = []

    def judge(type: StepType, config: Config, inputs: Mapping[str, Dataset]) -> None:
        name = inputs["model"].ref.name
        judged.append(Judged(type, config, dict(inputs), perform(type, name, config, inputs)))

    corpus = _corpus(perform, config)
    if until == "ingest":
        return judged
    if base and (read := base.read(corpus)):
        say(f"no new text since {base.model}; there is nothing to pretrain")
        model, tokens = base.model, read
    else:
        tokenize = with_tokenizer_of(base.model, config.tokenize) if base else config.tokenize
        tokens = perform(TOKENIZE, data, tokenize, {"corpus": corpus})
        if until == "tokenize":
            return judged
        samples = perform(SAMPLE, data, config.sample, {"tokens": tokens})
        if until == "sample":
            return judged
        goes_on = {"base": base.model} if base else {}
        model = perform(PRETRAIN, name, config.pretrain, {"samples": samples, "tokens": tokens, **goes_on})
    if until == "evaluate":
        for key, task in config.tasks.items():
            perform(EVALUATE_TASK, f"{name}-{key}", task, {"model": model})
        judge(EVALUATE_LANGUAGE, config.evaluate, {"model": model, "tokens": tokens, "corpus": corpus})
    if until not in ("finetune", "evaluate"):
        return judged
    for key, part in config.finetune.items():
        examples = perform(EXAMPLES, key, part.examples, {})
        finetune = FINETUNE_CLASSIFIER if isinstance(part, ClassificationRun) else FINETUNE_ASSISTANT
        lessons = perform(LESSONS, f"{name}-{key}", part.training.lessons, {"model": model, "examples": examples})
        sources = {"model": model, "examples": examples, "lessons": lessons}
        tuned = perform(finetune, f"{name}-{key}", part.training, sources)
        if until != "evaluate":
            continue
        roles = {"model": tuned, "examples": examples}
        if isinstance(part, ClassificationRun):
            if part.compare_from_scratch:
                training = part.training.model_copy(update={"from_scratch": True})
                roles["scratch"] = perform(FINETUNE_CLASSIFIER, f"{name}-{key}-from-scratch", training, sources)
            judge(EVALUATE_CLASSIFIER, part.evaluate, roles)
        else:
            judge(EVALUATE_ASSISTANT, part.evaluate, roles | {"base": model})
    return judged


def _corpus(perform: Perform, config: RunConfig) -> Dataset:
    """The corpus that the run is about: that of its sources, or a mix of several."""
    if config.ingest:
        return perform(INGEST, config.data, config.ingest, {})
    assert config.mix
    corpora = {name: perform(INGEST, name, each, {}) for name, each in config.corpora.items()}
    return perform(MIX, config.data, config.mix, corpora)


Judge = Callable[[Perform, Home], list[Judged]]


def _conduct(
    config: RunConfig, judge: Judge, rebuild: bool = False, promote: bool = True, again: bool = False
) -> list[Outcome] | State[None]:
    """What every flow does around its steps: sweeps, tracks, heeds signals, reports, promotes, and sums up."""
    home = Home.from_environment()
    show_alive(home.store, str(flow_run.id))
    crash_dead_runs(home.store)
    home.store.sweep()
    tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
    try:
        with stop_on_signals() as should_stop, reaching(home.mlflow_uri):
            tracker = Tracker(home, config.name)
            with tracker.flow_run(config, tags):
                conductor = Conductor(home.store, tracker, rebuild, should_stop)
                judged = judge(conductor.perform, home)
                done = [outcome.dataset for outcome in conductor.done]
                made: dict[str, Dataset] = {}  # in the order of the chain, then what was judged but not made here
                for dataset in [*done, *(each for one in judged for each in one.inputs.values())]:
                    made.setdefault(f"{dataset.ref.kind}/{dataset.ref.name}", dataset)
                report = conductor.perform(REPORT, config.name, config.report, made)
                if promote:
                    conductor.done += Gate(conductor.perform, home, tracker, config, again).pass_all(judged)
                links = tracker.summarise(config.name, conductor.done, report.file(REPORT_FILE))
                publish_chain(config.name, conductor.done, links["report"])
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return conductor.done


def _our_flow(name: str, description: str | None = None) -> Callable[[Callable[..., Any]], prefect.Flow[..., Any]]:
    hooks: list[Any] = [tell_mlflow]
    make: Any = flow(
        name=name,
        description=description,
        task_runner=task_runner(),
        persist_result=False,
        on_failure=hooks,
        on_crashed=hooks,
        on_cancellation=hooks,
    )
    return make


def _flow(name: str, until: str, description: str) -> prefect.Flow[..., Any]:
    def conduct(config: RunConfig, rebuild: bool = False) -> list[Outcome] | State[None]:
        """Carry the chain so far.

        Args:
            config: The run, as its TOML file says it.
            rebuild: Run every step again and put its result in the old one's place.
        """

        def judge(perform: Perform, home: Home) -> list[Judged]:
            base = find_base(config.base, config.name, home) if config.base else None
            return chain(perform, config, until, base)

        return _conduct(config, judge, rebuild)

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
    """Judge the champions and their challengers on the run's held-out data as it is today. Trains nothing.

    Args:
        config: The run, as its TOML file says it.
    """

    def judge(perform: Perform, home: Home) -> list[Judged]:
        return judge_registered(
            perform, config, home, _corpus(perform, config), lambda vs: [v for v in vs if v.aliases]
        )

    return _conduct(config, judge, promote=False)


@_our_flow(name="promote")
def promote(config: RunConfig, again: bool = False) -> list[Outcome] | State[None]:
    """Hold the newest model of each name against its champion, and promote the better ones. Trains nothing.

    Args:
        config: The run, as its TOML file says it; its `promote` table says what better means.
        again: Decide also about models that were decided about before.
    """

    def judge(perform: Perform, home: Home) -> list[Judged]:
        return judge_registered(perform, config, home, _corpus(perform, config), lambda versions: versions[-1:])

    return _conduct(config, judge, again=again)


FLOWS = {each.name: each for each in (run, ingest, tokenize, sample, pretrain, finetune, evaluate, reevaluate, promote)}
