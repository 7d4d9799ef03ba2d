"""Pretrain: samples become a GPT that predicts the next token."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, ValidationError, model_validator
from torch import nn

from gpt.config import GPTConfig, gpt_config
from gpt.machine import device
from gpt.model import GPT
from gpt.train import Metrics, TrainConfig, TrainResult
from gpt.weights import load_model, save_model
from pipelines.errors import InputError
from pipelines.models.language_model import SAMPLING, LanguageModel
from pipelines.store.dataset import Dataset
from pipelines.store.step import ConfigWithNames, StepContext, StepType, fingerprinted
from pipelines.tokens.order import order_seed
from pipelines.tokens.samples import Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenizer import FILE
from pipelines.training.fit import fit, load_best, mean_loss, training_headline, training_statistics
from pipelines.training.loader import Loader
from pipelines.training.processes import launch
from pipelines.training.tuning import NOTHING_TO_CHOOSE_ON, tuning_batches


class ModelConfig(ConfigWithNames):
    """The model's size and style. Vocabulary and context come from the samples."""

    size: str = "nano"
    """A named size: pico to small for a CPU, gpt2 and up for a GPU."""
    preset: Literal["gpt2", "modern"] = "gpt2"
    """GPT-2's architecture, or the modern one."""
    layers: int | None = Field(None, gt=0)
    """Blocks, in place of the size's own."""
    heads: int | None = Field(None, gt=0)
    """Attention heads, in place of the size's own."""
    width: int | None = Field(None, gt=0)
    """Channels, in place of the size's own."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of activations dropped while training."""
    tied: bool | None = None
    """Output head tied to the embedding, in place of the preset's."""

    def gpt(self, vocabulary: int, context: int) -> GPTConfig:
        """Return the whole architecture."""
        overrides = self.model_dump(exclude={"size", "preset"}, exclude_none=True)
        return gpt_config(self.size, self.preset, vocabulary=vocabulary, context=context, **overrides)

    def redefined(self) -> dict[str, Any]:
        """Return the fields of the architecture that differ from what the names meant in version 0.1.0."""
        size = dict(zip(("layers", "heads", "width"), SIZES_IN_0_1.get(self.size, ()), strict=False))
        overrides = self.model_dump(exclude={"size", "preset"}, exclude_none=True)
        before = {"vocabulary": 1, "context": 1, **size, **PRESETS_IN_0_1.get(self.preset, {}), **overrides}
        return {name: value for name, value in fingerprinted(self.gpt(1, 1)).items() if before.get(name) != value}

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        try:
            self.gpt(1, 1)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self


# What the names of sizes and presets meant in version 0.1.0, whose fingerprints have the names alone. Never edit this.
SIZES_IN_0_1 = {
    "pico": (2, 2, 64),
    "nano": (4, 4, 128),
    "micro": (6, 6, 192),
    "mini": (6, 4, 256),
    "small": (8, 6, 384),
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
    "gpt3-125m": (12, 12, 768),
    "gpt3-350m": (24, 16, 1024),
    "gpt3-760m": (24, 16, 1536),
    "gpt3-1.3b": (24, 16, 2048),
    "gpt3-2.7b": (32, 32, 2560),
    "gpt3-6.7b": (32, 32, 4096),
    "gpt3-13b": (40, 40, 5120),
    "gpt3-175b": (96, 96, 12288),
}
GPT2_IN_0_1 = {"positions": "learned", "qk_norm": False, "activation": "gelu", "bias": True, "tied": True}
MODERN_IN_0_1 = {"positions": "rotary", "qk_norm": True, "activation": "relu2", "bias": False, "tied": False}
PRESETS_IN_0_1 = {"gpt2": {**GPT2_IN_0_1, "zero_init": False}, "modern": {**MODERN_IN_0_1, "zero_init": True}}


class PretrainConfig(TrainConfig):
    """The model and its training."""

    model: ModelConfig = ModelConfig()
    """The model's size and style."""
    batch_size: int = Field(16, gt=0)
    """Samples in a micro-batch."""
    processes: int = Field(1, gt=0)
    """Processes that share the micro-batches of each step."""
    evaluation_samples: int = Field(64, gt=0)
    """Most validation windows read at an evaluation; half of the documents are kept out for the promotion gate."""
    prompts: tuple[str, ...] = ("",)
    """Prompts that the model continues at each evaluation."""

    @model_validator(mode="after")
    def _check_processes(self) -> Self:
        if self.accumulation % self.processes:
            raise ValueError(
                f"accumulation is {self.accumulation}, which {self.processes} processes cannot share equally; "
                "make it a multiple of processes"
            )
        return self


def run(inputs: Mapping[str, Dataset], config: PretrainConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Train a new GPT, or a base further, on the train split, with evaluations on half of the validation split."""
    if config.processes > 1:
        result = launch(inputs, config, work)
        model = new_model(inputs, config)
        load_best(model, work)
    else:
        model, result = train_model(inputs, config, work, device())
    save_model(model, out, Tokens(inputs["tokens"]).tokenizer.end_of_text)
    shutil.copy(inputs["tokens"].file(FILE), out / FILE)
    return {"task": "language", **training_statistics(model, result), "context": model.config.context}


def new_model(inputs: Mapping[str, Dataset], config: PretrainConfig) -> GPT:
    """Return the model to train: with random weights from the config's seed, or with those of the base.

    Raises:
        InputError: the base has another tokenizer or another architecture.
    """
    vocabulary = Tokens(inputs["tokens"]).tokenizer.vocabulary
    torch.manual_seed(config.seed)
    model = GPT(config.model.gpt(vocabulary, Samples(inputs["samples"]).context))
    if base := inputs.get("base"):
        if base.manifest.files[FILE].sha256 != inputs["tokens"].manifest.files[FILE].sha256:
            raise InputError(f"{base} reads other tokens than {inputs['tokens']}: their tokenizers differ.")
        weights = load_model(base.path)
        ours, its = model.config.model_dump(), weights.config.model_dump()
        for name in ours:
            if ours[name] != its[name] and name != "dropout":
                raise InputError(
                    f"{base} has {name} = {its[name]} and the config asks for {ours[name]}; pretraining goes on with "
                    f"the same architecture only, so change the config or train from the start."
                )
        model.load_state_dict(weights.state_dict())
    return model


def train_model(
    inputs: Mapping[str, Dataset], config: PretrainConfig, work: StepContext, where: torch.device
) -> tuple[GPT, TrainResult]:
    """Train in this process, which may be one of several, and return the model.

    Args:
        inputs: samples, tokens and optionally a base.
        config: settings of the step.
        work: the context of the running step.
        where: the device to train on.
    """
    samples, tokens = Samples(inputs["samples"]), Tokens(inputs["tokens"])
    model = new_model(inputs, config).to(where)
    seed = order_seed(config.seed, inputs["base"].ref if "base" in inputs else None)
    batches = Loader(
        samples, tokens, "train", batch_size=config.batch_size, accumulation=config.accumulation, seed=seed
    )
    validation = tuning_batches(samples, tokens, config.batch_size, config.evaluation_samples)
    if not validation:
        work.listener.warn(NOTHING_TO_CHOOSE_ON.format(item="document"))

    def evaluate(model: nn.Module) -> Metrics:
        if not validation:
            return {}
        loss = mean_loss(cast(GPT, model), (batch.to(where) for batch in validation))
        return {"val/loss": loss, "val/perplexity": math.exp(min(loss, 700))}

    def show(step: int) -> None:
        if config.sharded:
            return  # one process alone has not the whole model
        written = LanguageModel(model, tokens.tokenizer).complete(
            config.prompts, replace(SAMPLING, max_new_tokens=80, seed=config.seed)
        )
        texts = [f"{prompt}{text}" for prompt, text in zip(config.prompts, written, strict=True)]
        work.listener.text(f"samples/step-{step:06d}.txt", "\n\n----\n\n".join(texts) + "\n")

    return model, fit(model, batches, config, work, evaluate=evaluate, show=show)


PRETRAIN = StepType(
    "pretrain",
    kind="model",
    version=2,
    config=PretrainConfig,
    run=run,
    packages=("gpt", "pipelines.training"),
    headline=training_headline,
)
