"""The chain: the order of the steps from source files to evaluated models, and what each takes from which.

`chain` carries nothing out itself: it hands every step to a function. `resolve` looks all results up that way.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipelines.config import ClassificationRun, FinetuneRun, InstructionRun, RunConfig
from pipelines.corpus.examples import EXAMPLES, Examples
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.mix import MIX
from pipelines.errors import InputError
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.evaluation.multiple_choice import EVALUATE_TASK
from pipelines.evaluation.trial import TRY
from pipelines.numbers import counted
from pipelines.report.report import REPORT
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES, check_fit
from pipelines.tokens.tokenizer import FILE
from pipelines.tokens.tokenizers import load_tokenizer
from pipelines.training.finetune_assistant import FINETUNE_ASSISTANT
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER, check_classes
from pipelines.training.pretrain import PRETRAIN

STEPS = {
    type.name: type
    for type in (
        *(INGEST, MIX, EXAMPLES, TOKENIZE, SAMPLE, TOKENIZE_EXAMPLES),
        *(PRETRAIN, FINETUNE_CLASSIFIER, FINETUNE_ASSISTANT),
        *(EVALUATE_LANGUAGE, EVALUATE_TASK, EVALUATE_CLASSIFIER, EVALUATE_ASSISTANT, TRY),
        REPORT,
    )
}
"""Every type of step by its name."""

Perform = Callable[[Step], Dataset]
"""Returns the published result of a step."""

Resolved = Sequence[tuple[Step, Dataset | None]]
"""Steps with their published results; None where the result has to be made."""


@dataclass(frozen=True)
class Evaluated:
    """A model's evaluation, and the step that made it."""

    step: Step
    evaluation: Dataset

    @property
    def model(self) -> Dataset:
        """The model that was evaluated."""
        return self.step.inputs["model"]


@dataclass(frozen=True)
class Base:
    """A pretrained model, and the tokens that it was trained on if the store still has them."""

    model: Dataset
    tokens: Dataset | None

    def tokens_of(self, corpus: Dataset) -> Dataset | None:
        """Return the model's tokens if it was trained on exactly this corpus, else None."""
        tokens = self.tokens
        return tokens if tokens and tokens.manifest.inputs["corpus"].digest == corpus.ref.digest else None


def chain(
    perform: Perform,
    config: RunConfig,
    until: str = "evaluate",
    base: Base | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    check: bool = True,
) -> list[Evaluated]:
    """Perform every step of a run, each after the steps that it needs.

    Args:
        perform: returns the published result of a step.
        config: the run.
        until: the last step: ingest, tokenize, sample, pretrain, finetune or evaluate.
        base: the model that pretraining continues from, if any. Its tokenizer makes the tokens. If it was trained on
            exactly this corpus, nothing is trained, and it takes the pretrained model's place.
        say: receives a sentence where there is nothing to pretrain.
        check: read the examples before anything is trained, and fail if a fine-tuning would. Those who only look
            results up leave this out.

    Returns:
        The models that were evaluated.

    Raises:
        InputError: a step has too little to work on.
    """
    name, data = config.name, config.data
    corpus = corpus_of(perform, config)
    if until == "ingest":
        return []
    check_splits(corpus, config, until)
    finetuned = config.finetune if until in ("finetune", "evaluate") else {}
    examples = {key: perform(EXAMPLES.using(key, part.examples)) for key, part in finetuned.items()}  # or fail early
    for key, part in finetuned.items():
        check_examples(examples[key], part, until, with_labels=check)
    if base and (read := base.tokens_of(corpus)):
        say(f"no new text since {base.model}; there is nothing to pretrain")
        model, tokens = base.model, read
    else:
        tokenize = with_tokenizer_of(base.model, config.tokenize) if base else config.tokenize
        tokens = perform(TOKENIZE.using(data, tokenize, {"corpus": corpus}))
        if until == "tokenize":
            return []
        samples = perform(SAMPLE.using(data, config.sample, {"tokens": tokens}))
        if until == "sample":
            return []
        for key, part in finetuned.items() if check else ():
            check_conversations(examples[key], part, tokens, config.sample.context, until)
        start = {"base": base.model} if base else {}
        model = perform(PRETRAIN.using(name, config.pretrain, {"samples": samples, "tokens": tokens, **start}))
    evaluated: list[Evaluated] = []
    if until == "evaluate":
        for key, task in config.tasks.items():
            perform(EVALUATE_TASK.using(f"{name}-{key}", task, {"model": model}))
        inputs = {"model": model, "tokens": tokens, "corpus": corpus}
        step = EVALUATE_LANGUAGE.using(name, config.evaluate, inputs)
        evaluated.append(Evaluated(step, perform(step)))
    for key, part in finetuned.items():
        step = _finetune(perform, f"{name}-{key}", part, model, examples[key], with_baseline=until == "evaluate")
        if until == "evaluate":
            evaluated.append(Evaluated(step, perform(step)))
    return evaluated


def corpus_of(perform: Perform, config: RunConfig) -> Dataset:
    """Perform the steps that make a run's corpus: that of its sources, or a mix of several."""
    if config.ingest:
        return perform(INGEST.using(config.data, config.ingest))
    assert config.mix
    corpora = {name: perform(INGEST.using(name, each)) for name, each in config.corpora.items()}
    return perform(MIX.using(config.data, config.mix, corpora))


def check_splits(corpus: Dataset, config: RunConfig, until: str) -> None:
    """Check that a corpus has what the later steps need, before any of them starts.

    Raises:
        InputError: there is nothing to train on, or nothing to evaluate on.
    """
    statistics, split = corpus.manifest.statistics, config.evaluate.split
    n_documents, n_bytes = statistics["documents"], statistics["bytes_train"]
    equal = statistics.get("rejected_exact_duplicate", 0)
    has = f"{corpus} has {counted(n_documents, 'document')}"
    has += f" and {equal:,} equal ones" if equal else ""
    divide = "split_at or max_document of a source divides its texts, and [ingest.split] has the shares to hold out"
    if not statistics["documents_train"]:
        raise InputError(f"{has}, and none of them to train on: {divide}.")
    if n_bytes + statistics["documents_train"] <= config.sample.context and config.sample.boundaries == "stream":
        raise InputError(
            f"{corpus} has {n_bytes:,} bytes to train on, and a window has sample.context = {config.sample.context} "
            "tokens; add text or ask for a shorter context."
        )
    if until == "evaluate" and not statistics[f"documents_{split}"]:
        shares = config.ingest.split if config.ingest else next(iter(config.corpora.values())).split
        if not getattr(shares, split):
            raise InputError(
                f"evaluate.split = {split!r} scores the model on documents that are held out, and the share {split} of "
                f"[ingest.split] is 0; give it a share or choose another split. `tokenmill pretrain` trains without."
            )
        raise InputError(
            f"{has}, and none in its {split} split, on which evaluate.split = {split!r} scores the model: {divide}. "
            "`tokenmill pretrain` trains without."
        )


def check_examples(examples: Dataset, part: FinetuneRun, until: str, with_labels: bool) -> None:
    """Check that examples have what fine-tuning and its evaluation need, before anything is trained.

    Raises:
        InputError: a split has no example, or no classifier can learn the labels.
    """
    if empty := [split for split in _splits_of(part, until) if not examples.manifest.statistics[f"examples_{split}"]]:
        n = examples.manifest.statistics["examples"]
        raise InputError(
            f"{examples} has {counted(n, 'example')} and none in its {empty[0]} split; give it more, or another "
            "share of them in the split of [finetune.….examples]."
        )
    if with_labels and isinstance(part, ClassificationRun):
        check_classes(Examples(examples), part.training)


def check_conversations(examples: Dataset, part: FinetuneRun, tokens: Dataset, context: int, until: str) -> None:
    """Check that some conversations fit the model, before it is trained. A classifier cuts longer texts.

    Raises:
        InputError: none of a split does.
    """
    if isinstance(part, InstructionRun):
        tokenizer, written = load_tokenizer(tokens.path), part.training.tokenize_examples
        check_fit(examples, written, tokenizer, context, _splits_of(part, until))


def _splits_of(part: FinetuneRun, until: str) -> list[str]:
    """Return the splits of examples that fine-tuning and its evaluation read."""
    return ["train", "validation", *([part.evaluate.split] if until == "evaluate" else [])]


def _finetune(
    perform: Perform, name: str, part: FinetuneRun, model: Dataset, examples: Dataset, with_baseline: bool
) -> Step:
    """Fine-tune a model, and for a classifier's evaluation also one from random weights; return its evaluation."""
    base = {"model": model, "examples": examples}
    inputs = {**base, "lessons": perform(TOKENIZE_EXAMPLES.using(name, part.training.tokenize_examples, base))}
    if isinstance(part, InstructionRun):
        tuned = perform(FINETUNE_ASSISTANT.using(name, part.training, inputs))
        return EVALUATE_ASSISTANT.using(name, part.evaluate, {"model": tuned, "examples": examples, "base": model})
    roles = {"model": perform(FINETUNE_CLASSIFIER.using(name, part.training, inputs)), "examples": examples}
    if with_baseline and part.compare_from_scratch:
        training = part.training.model_copy(update={"from_scratch": True})
        roles["scratch"] = perform(FINETUNE_CLASSIFIER.using(f"{name}-from-scratch", training, inputs))
    return EVALUATE_CLASSIFIER.using(name, part.evaluate, roles)


def with_tokenizer_of(model: Dataset, config: TokenizeConfig) -> TokenizeConfig:
    """Return a tokenization with the tokenizer of a model in place of the config's own."""
    return TokenizeConfig(tokenizer=str(model.file(FILE)), shard_tokens=config.shard_tokens)


def report_on(config: RunConfig, made: Sequence[Dataset], evaluated: Sequence[Evaluated]) -> Step:
    """Return the step that reports on what was made, in that order, then on what was evaluated but not made."""
    inputs: dict[str, Dataset] = {}
    for dataset in [*made, *(each for one in evaluated for each in one.step.inputs.values())]:
        inputs.setdefault(f"{dataset.ref.kind}/{dataset.ref.name}", dataset)
    return REPORT.using(config.name, config.report, inputs)


def resolve(
    find: Callable[[Step], Dataset | None], config: RunConfig, until: str = "evaluate", base: Base | None = None
) -> Resolved:
    """Look up the result of every step of a run, its report included, up to the first that has to be made.

    Steps that come after that one are not in the list: their inputs are not known yet.
    """
    resolved: list[tuple[Step, Dataset | None]] = []

    def look_up(step: Step) -> Dataset:
        dataset = find(step)
        resolved.append((step, dataset))
        if dataset is None:
            raise _Missing
        return dataset

    with suppress(_Missing):
        evaluated = chain(look_up, config, until, base, check=False)
        look_up(report_on(config, [dataset for _, dataset in resolved if dataset], evaluated))
    return resolved


class _Missing(Exception):
    """A result has to be made."""


def result_in(resolved: Resolved, step: Step) -> Dataset | None:
    """Return the result of a step that was resolved before, or None."""
    return next((dataset for known, dataset in resolved if known == step), None)
