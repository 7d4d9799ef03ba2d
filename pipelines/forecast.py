"""A forecast of a run: which steps are reused, and how long and how big the others become.

The numbers come from earlier versions of the same steps, from the sizes of the sources, and from a few steps of
training on this machine. A step whose inputs are not known yet has no number where a guess would mislead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from gpt.train import TrainConfig
from pipelines.chain import Base, chain, report_on
from pipelines.config import RunConfig
from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.mix import MIX
from pipelines.numbers import counted, short, size
from pipelines.starter.plan import EVALUATING, READ_BYTES
from pipelines.starter.speed import parameters_of, seconds_per_token
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Manifest, Ref
from pipelines.store.step import Step
from pipelines.tokens.samples import SAMPLE, SampleConfig
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig, find_tokenizer
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES
from pipelines.training.finetune_assistant import FINETUNE_ASSISTANT, AssistantConfig
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER, ClassifierConfig
from pipelines.training.pretrain import PRETRAIN, PretrainConfig

BYTES_PER_TOKEN = {"bpe": 3.5, "characters": 1.0, "words": 5.5}
"""Bytes of a token of encodings that are learnt; published ones have about four."""
LETTERS = 128  # of a usual text
TOKENIZED_BYTES = 4e6  # bytes a second that tokenizing reads, with learning a vocabulary
MIXED_BYTES = 2e7  # bytes a second that a mix copies
SAMPLED, SAMPLE_BYTES = 1e6, 60  # windows a second, and bytes of one
WEIGHT_BYTES = 4
PACKED = 0.4  # bytes of a corpus's file for a byte of text
EVALUATION_BYTES = 2e5
PLENTY = 1 << 40
TOO_LARGE = "not known: too large to try here"
EFFECTS = (
    *("model", "batch_size", "accumulation", "processes", "precision", "compile", "recompute", "threads"),
    *("optimizer", "trainable", "from_scratch", "packing"),
)
"""Settings of a training that its speed depends on."""

Numbers = dict[str, Any]
"""Statistics that a result may have, by name."""


@dataclass(frozen=True)
class StepForecast:
    """What becomes of a step.

    dataset: the result, if it is reused.
    about: what is known of the work.
    seconds, bytes: estimates; None if nothing is known.
    unknown: why the time is not known.
    at_most: whether it takes this time at most.
    """

    step: Step
    dataset: Dataset | None = None
    about: str = ""
    seconds: float | None = None
    bytes: float | None = None
    unknown: str = ""
    at_most: bool = False


class _Statistics(dict[str, Any]):
    """Numbers that are expected. What is not known is plenty, so that no check of the chain fails for it."""

    def __missing__(self, key: str) -> int:
        return PLENTY


@dataclass(frozen=True)
class _Manifest:
    statistics: _Statistics
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Expected:
    """A dataset that is not made yet."""

    step: str
    ref: Ref
    manifest: _Manifest

    def __str__(self) -> str:
        return f"{self.ref.kind}/{self.ref.name}"


def forecast(
    config: RunConfig,
    until: str,
    published: Iterable[Dataset],
    base: Base | None = None,
    rebuild: bool = False,
    on_measure: Callable[[], None] = lambda: None,
) -> list[StepForecast]:
    """Return what becomes of each step of a run, its report included, in order. Nothing is made.

    Args:
        config: the run.
        until: the last step, as `chain` takes it.
        published: all datasets, oldest first.
        base: the model that pretraining continues from, if any.
        rebuild: whether every step is run again.
        on_measure: called before training is tried on this machine, which takes some seconds.

    Raises:
        InputError: a source is missing, or too little is known to be there.
    """
    known = {each.ref.key: each for each in published}
    forecasts: list[StepForecast] = []
    estimate = _Estimate({(each.manifest.step, each.ref.name): each for each in known.values()}, on_measure)

    def look_up(step: Step) -> Dataset:
        is_known = not rebuild and all(isinstance(each, Dataset) for each in step.inputs.values())
        if is_known and (dataset := known.get(step.key)):
            forecasts.append(StepForecast(step, dataset))
            return dataset
        made, statistics = estimate.of(step)
        forecasts.append(made)
        ref = Ref.model_construct(kind=step.type.kind, name=step.name, fingerprint="", digest="")
        return cast(Dataset, _Expected(step.type.name, ref, _Manifest(_Statistics(statistics))))

    evaluated = chain(look_up, config, until, base, check=False)
    if all(each.dataset for each in forecasts):
        look_up(report_on(config, [each.dataset for each in forecasts if each.dataset], evaluated))
    else:
        forecasts.append(StepForecast(report_on(config, [], []), about="one page", seconds=2.0, bytes=1e6))
    return forecasts


@dataclass
class _Estimate:
    """Estimates steps one after another.

    earlier: the newest version by step and name.
    """

    earlier: Mapping[tuple[str, str], Dataset]
    on_measure: Callable[[], None]
    token_seconds: float | None = None

    def of(self, step: Step) -> tuple[StepForecast, Numbers]:
        """Return the forecast of a step that has to be made, and the statistics that its result may have."""
        estimates = {
            INGEST.name: self._reading,
            EXAMPLES.name: self._reading,
            MIX.name: self._mixing,
            TOKENIZE.name: self._tokenizing,
            SAMPLE.name: self._sampling,
            PRETRAIN.name: self._pretraining,
            TOKENIZE_EXAMPLES.name: self._lessons,
            FINETUNE_CLASSIFIER.name: self._finetuning,
            FINETUNE_ASSISTANT.name: self._finetuning,
        }
        return estimates.get(step.type.name, self._other)(step, self.earlier.get((step.type.name, step.name)))

    def _reading(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        n_bytes = sum(file.bytes for file in step.sources)
        about = f"{counted(len(step.sources), 'file')} of {size(n_bytes)}"
        seconds, made, text = n_bytes / READ_BYTES, PACKED * n_bytes, float(n_bytes)
        if before and (there := sum(file.bytes for file in before.manifest.sources)):
            share = n_bytes / there
            seconds, made = share * before.manifest.built["seconds"], share * before.manifest.bytes
            text = share * before.manifest.statistics.get("bytes", there)
        return StepForecast(step, None, about, seconds, made), {"bytes": text}

    def _mixing(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        text = sum(each.manifest.statistics["bytes"] for each in step.inputs.values())
        return StepForecast(step, None, f"of {size(text)}", text / MIXED_BYTES, PACKED * text), {"bytes": text}

    def _tokenizing(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        config, n_bytes = cast(TokenizeConfig, step.config), step.inputs["corpus"].manifest.statistics["bytes"]
        vocabulary = config.vocabulary or LETTERS if config.encoding == "characters" else config.vocabulary
        per_token = BYTES_PER_TOKEN.get(config.encoding, 4.0)
        learnt = ("encoding", "vocabulary")
        if before and all(before.manifest.config.get(key) == getattr(config, key) for key in learnt):
            vocabulary = before.manifest.statistics["vocabulary"]
            per_token = before.manifest.statistics["bytes_per_token"]
        elif tokenizer := find_tokenizer(config):
            vocabulary = tokenizer.vocabulary + len(config.special_tokens)
        tokens = n_bytes / per_token
        wide = 2 if (vocabulary or 0) <= 1 << 16 else 4
        made = StepForecast(step, None, f"about {short(tokens)} tokens", n_bytes / TOKENIZED_BYTES, tokens * wide)
        return made, {"tokens": tokens, "vocabulary": vocabulary}

    def _sampling(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        context, tokens = cast(SampleConfig, step.config).context, step.inputs["tokens"].manifest.statistics["tokens"]
        samples = tokens / context
        made = StepForecast(step, None, f"about {short(samples)} windows", samples / SAMPLED, samples * SAMPLE_BYTES)
        return made, {"context": context}

    def _pretraining(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        config, samples = cast(PretrainConfig, step.config), step.inputs["samples"].manifest
        context = samples.statistics["context"] if isinstance(samples, _Manifest) else samples.config["context"]
        vocabulary = step.inputs["tokens"].manifest.statistics["vocabulary"]
        about = f"{counted(config.steps, 'step')} of {config.batch_size * config.accumulation} x {context} tokens"
        if vocabulary is None:
            return StepForecast(step, None, about, unknown=_waits_for(step)), {"context": context}
        architecture = config.model.gpt(vocabulary, context)
        parameters, tokens = (
            parameters_of(architecture),
            config.steps * config.batch_size * config.accumulation * context,
        )
        numbers = {"parameters": parameters, "context": context}
        seconds = _as_before(before, config, numbers)
        if seconds is None and config.processes == 1:
            self.on_measure()
            self.token_seconds = seconds_per_token(architecture, config, config.batch_size)
            seconds = self.token_seconds and self.token_seconds * tokens
        elif seconds is not None:
            self.token_seconds = seconds / tokens
        unknown = TOO_LARGE if seconds is None else ""
        about = f"{short(parameters)} parameters, {about}"
        return StepForecast(step, None, about, seconds, WEIGHT_BYTES * parameters, unknown), numbers

    def _lessons(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        examples = step.inputs["examples"].manifest
        n_bytes = examples.bytes if isinstance(examples, Manifest) else examples.statistics["bytes"]
        return StepForecast(step, None, f"of {size(n_bytes)}", n_bytes / TOKENIZED_BYTES, n_bytes), {}

    def _finetuning(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        config, base = cast(ClassifierConfig | AssistantConfig, step.config), step.inputs["model"].manifest
        examples, parameters = config.batch_size * config.accumulation, base.statistics["parameters"]
        about = f"{counted(config.steps, 'step')} of {counted(examples, 'example')}"
        if parameters == PLENTY:
            return StepForecast(step, None, about, unknown=_waits_for(step)), {}
        seconds, at_most = _as_before(before, config, {"parameters": parameters}), False
        if self.token_seconds is None and isinstance(base, Manifest):
            self.token_seconds = base.built["seconds"] / max(base.statistics["tokens_trained"], 1)
        if seconds is None and self.token_seconds:
            lessons = step.inputs["lessons"].manifest.statistics
            at_most = "tokens" not in lessons
            length = base.statistics["context"] if at_most else lessons["tokens"] / lessons["lessons"]
            seconds = config.steps * examples * length * self.token_seconds
        unknown = TOO_LARGE if seconds is None else ""
        return StepForecast(step, None, about, seconds, WEIGHT_BYTES * parameters, unknown, at_most), {}

    def _other(self, step: Step, before: Dataset | None) -> tuple[StepForecast, Numbers]:
        if before:
            return StepForecast(step, None, "", before.manifest.built["seconds"], before.manifest.bytes), {}
        return StepForecast(step, None, "", EVALUATING, EVALUATION_BYTES), {}


def _as_before(before: Dataset | None, config: TrainConfig, numbers: Numbers) -> float | None:
    """Return the seconds of an earlier training in proportion to the steps, if nothing else makes a difference."""
    if before is None:
        return None
    there, here = before.manifest.config, config.model_dump(mode="json")
    equal = all(there.get(key) == here.get(key) for key in EFFECTS)
    if not equal or any(before.manifest.statistics.get(name) != number for name, number in numbers.items()):
        return None
    return float(before.manifest.built["seconds"] * config.steps / before.manifest.statistics["steps"])


def _waits_for(step: Step) -> str:
    """Return why nothing is known about a step: what it takes is not made yet."""
    inputs: Iterable[Any] = step.inputs.values()
    return f"not known before {next(each.step for each in inputs if isinstance(each, _Expected))}"
