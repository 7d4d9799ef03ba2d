"""The flows: the whole chain as `run`, and one flow per step that carries the chain that far."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import prefect
from prefect import flow
from prefect.runtime import flow_run

from flows.conductor import Conductor
from flows.home import Home
from flows.runners import task_runner
from flows.signals import stop_on_signals
from flows.summary import Outcome, publish_chain
from flows.tracking import Tracker
from gpt.config import Config
from pipelines.config import ClassificationRun, RunConfig
from pipelines.evaluate_assistant import EVALUATE_ASSISTANT
from pipelines.evaluate_classifier import EVALUATE_CLASSIFIER
from pipelines.evaluate_language import EVALUATE_LANGUAGE
from pipelines.examples import EXAMPLES
from pipelines.finetune_assistant import FINETUNE_ASSISTANT
from pipelines.finetune_classifier import FINETUNE_CLASSIFIER
from pipelines.ingest import INGEST
from pipelines.mix import MIX
from pipelines.pretrain import PRETRAIN
from pipelines.report import FILE as REPORT_FILE
from pipelines.report import REPORT
from pipelines.sample import SAMPLE
from pipelines.step import StepType
from pipelines.store import Dataset
from pipelines.tokenize import TOKENIZE

Perform = Callable[[StepType, str, Config, Mapping[str, Dataset]], Dataset]


def chain(perform: Perform, config: RunConfig, until: str = "evaluate") -> None:
    """Every step from source files to evaluated models, in the order of their needs.

    Args:
        perform: (step type, name of the result, config, inputs by role) -> the published result.
        config: the run.
        until: the last step to carry out: ingest, tokenize, sample, pretrain, finetune or evaluate.
    """
    name, data = config.name, config.data
    corpus = _corpus(perform, config)
    if until == "ingest":
        return
    tokens = perform(TOKENIZE, data, config.tokenize, {"corpus": corpus})
    if until == "tokenize":
        return
    samples = perform(SAMPLE, data, config.sample, {"tokens": tokens})
    if until == "sample":
        return
    base = perform(PRETRAIN, name, config.pretrain, {"samples": samples, "tokens": tokens})
    if until == "evaluate":
        perform(EVALUATE_LANGUAGE, name, config.evaluate, {"model": base, "tokens": tokens})
    if until == "pretrain":
        return
    for key, part in config.finetune.items():
        classifier = isinstance(part, ClassificationRun)
        examples = perform(EXAMPLES, key, part.examples, {})
        finetune = FINETUNE_CLASSIFIER if classifier else FINETUNE_ASSISTANT
        model = perform(finetune, f"{name}-{key}", part.training, {"model": base, "examples": examples})
        if until == "evaluate" and classifier:
            perform(EVALUATE_CLASSIFIER, f"{name}-{key}", part.evaluate, {"model": model, "examples": examples})
        elif until == "evaluate":
            roles = {"model": model, "base": base, "examples": examples}
            perform(EVALUATE_ASSISTANT, f"{name}-{key}", part.evaluate, roles)


def _corpus(perform: Perform, config: RunConfig) -> Dataset:
    """The corpus that the run is about: that of its sources, or a mix of several."""
    if config.ingest:
        return perform(INGEST, config.data, config.ingest, {})
    assert config.mix
    corpora = {name: perform(INGEST, name, each, {}) for name, each in config.corpora.items()}
    return perform(MIX, config.data, config.mix, corpora)


def _flow(name: str, until: str, description: str) -> prefect.Flow[..., list[Outcome]]:
    def conduct(config: RunConfig, rebuild: bool = False) -> list[Outcome]:
        home = Home.from_environment()
        home.store.sweep()
        tracker = Tracker(home, config.name)
        tags = {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_name": str(flow_run.name)}
        with stop_on_signals() as should_stop, tracker.flow_run(config, tags):
            conductor = Conductor(home.store, tracker, rebuild, should_stop)
            chain(conductor.perform, config, until)
            made = {f"{o.dataset.ref.kind}/{o.dataset.ref.name}": o.dataset for o in conductor.done}
            report = conductor.perform(REPORT, config.name, config.report, made)
            links = tracker.summarise(config.name, conductor.done, report.file(REPORT_FILE))
            publish_chain(config.name, conductor.done, links["report"])
        return conductor.done

    conduct.__doc__ = description
    conduct.__name__ = conduct.__qualname__ = name
    return flow(name=name, description=description, task_runner=task_runner(), persist_result=False)(conduct)


run = _flow("run", "evaluate", "The whole chain: raw text to evaluated, fine-tuned models.")
ingest = _flow("ingest", "ingest", "Source files to a corpus.")
tokenize = _flow("tokenize", "tokenize", "Source files to token shards.")
sample = _flow("sample", "sample", "Source files to training samples.")
pretrain = _flow("pretrain", "pretrain", "Source files to a pretrained model.")
finetune = _flow("finetune", "finetune", "Source files to fine-tuned models.")
evaluate = _flow("evaluate", "evaluate", "Every model of the run judged on held-out data.")

FLOWS = {each.name: each for each in (run, ingest, tokenize, sample, pretrain, finetune, evaluate)}
