"""The chain: which step takes what from which, from source files to evaluated models. It carries nothing out itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gpt.config import Config
from pipelines.config import ClassificationRun, RunConfig
from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.mix import MIX
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.evaluation.multiple_choice import EVALUATE_TASK
from pipelines.report.report import REPORT
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES
from pipelines.tokens.tokenizer import FILE
from pipelines.tokens.tokenizers import TokenizeConfig
from pipelines.training.finetune_assistant import FINETUNE_ASSISTANT
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER
from pipelines.training.pretrain import PRETRAIN

STEPS = {
    type.name: type
    for type in (
        INGEST,
        MIX,
        EXAMPLES,
        TOKENIZE,
        SAMPLE,
        TOKENIZE_EXAMPLES,
        PRETRAIN,
        FINETUNE_CLASSIFIER,
        FINETUNE_ASSISTANT,
        EVALUATE_LANGUAGE,
        EVALUATE_TASK,
        EVALUATE_CLASSIFIER,
        EVALUATE_ASSISTANT,
        REPORT,
    )
}
"""Every type of step by its name."""

Perform = Callable[[StepType, str, Config, Mapping[str, Dataset]], Dataset]


@dataclass(frozen=True)
class Judged:
    """A model and its evaluation: the step that judged it, with its config and its inputs by role."""

    type: StepType
    config: Config
    inputs: Mapping[str, Dataset]
    evaluation: Dataset

    @property
    def model(self) -> Dataset:
        return self.inputs["model"]


def chain(
    perform: Perform,
    config: RunConfig,
    until: str = "evaluate",
    base: Base | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Judged]:
    """Every step from source files to evaluated models, in the order of their needs.

    Args:
        perform: (step type, name of the result, config, inputs by role) -> the published result.
        config: the run.
        until: the last step to carry out: ingest, tokenize, sample, pretrain, finetune or evaluate.
        base: the model that pretraining goes on from, if any. Its tokenizer makes the tokens; if it has read this very
            corpus already, there is nothing to train, and it takes the pretrained model's place.

        say: receives a sentence where there is nothing to pretrain.

    Returns:
        The models that were evaluated.
    """
    name, data = config.name, config.data
    judged: list[Judged] = []

    def judge(type: StepType, config: Config, inputs: Mapping[str, Dataset]) -> None:
        name = inputs["model"].ref.name
        judged.append(Judged(type, config, dict(inputs), perform(type, name, config, inputs)))

    corpus = corpus_of(perform, config)
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
        lessons = perform(
            TOKENIZE_EXAMPLES, f"{name}-{key}", part.training.lessons, {"model": model, "examples": examples}
        )
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


def corpus_of(perform: Perform, config: RunConfig) -> Dataset:
    """The corpus that the run is about: that of its sources, or a mix of several."""
    if config.ingest:
        return perform(INGEST, config.data, config.ingest, {})
    assert config.mix
    corpora = {name: perform(INGEST, name, each, {}) for name, each in config.corpora.items()}
    return perform(MIX, config.data, config.mix, corpora)


def reported(done: Sequence[Dataset], judged: Sequence[Judged]) -> dict[str, Dataset]:
    """What the report is about: all that was made, in the order of the chain, then what was judged but not made."""
    made: dict[str, Dataset] = {}
    for dataset in [*done, *(each for one in judged for each in one.inputs.values())]:
        made.setdefault(f"{dataset.ref.kind}/{dataset.ref.name}", dataset)
    return made


@dataclass(frozen=True)
class Base:
    """A pretrained model, and the tokens that it was trained on, if they are still there."""

    model: Dataset
    tokens: Dataset | None

    def read(self, corpus: Dataset) -> Dataset | None:
        """The tokens in which it has read this very corpus, if it has."""
        tokens = self.tokens
        return tokens if tokens and tokens.manifest.inputs["corpus"].digest == corpus.ref.digest else None


def with_tokenizer_of(model: Dataset, config: TokenizeConfig) -> TokenizeConfig:
    """The same tokenization by a model's tokenizer, in place of the encoding."""
    return TokenizeConfig(tokenizer=str(model.file(FILE)), shard_tokens=config.shard_tokens)
