"""Fine-tune a pretrained GPT into an assistant that follows instructions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from gpt.loss import IGNORE, next_token_loss
from gpt.train import Metrics, TrainConfig
from gpt.weights import save_model
from pipelines.datasets import Example, Examples
from pipelines.errors import InputError
from pipelines.model import Assistant, open_gpt, prompt_tokens
from pipelines.step import StepType, Work
from pipelines.store import Dataset
from pipelines.templates import Template, save_template, template_named
from pipelines.tokenizers import Tokenizer
from pipelines.training import MODULES, PaddedBatches, device, fit, training_statistics


class AssistantConfig(TrainConfig):
    """How an assistant is fine-tuned."""

    batch_size: int = Field(default=16, gt=0, description="Examples in a micro-batch.")
    template: str = Field(default="plain", description="How instruction and response are written: alpaca or plain.")


def run_assistant(inputs: Mapping[str, Dataset], config: AssistantConfig, out: Path, work: Work) -> dict[str, Any]:
    """Train the model to answer: the loss counts on the response and the end of text behind it, and nowhere else."""
    base = open_gpt(inputs["model"].path)
    examples = Examples(inputs["examples"])
    template = template_named(config.template)
    context = base.gpt.config.context
    too_long = 0

    def batches(split: str) -> PaddedBatches:
        nonlocal too_long
        rows = examples.rows(split)
        pairs = [training_pair(base.tokenizer, template, row) for row in rows]
        kept = [pair for pair in pairs if len(pair[0]) <= context]
        too_long += len(pairs) - len(kept)
        if not kept:
            raise InputError(
                f"{inputs['examples']} has no {split} example of at most {context} tokens to learn from; "
                f"give it more or shorter ones, or pretrain with a longer context."
            )
        return PaddedBatches(
            [ids for ids, _ in kept],
            [targets for _, targets in kept],
            config.batch_size,
            config.accumulation,
            config.seed,
        )

    train, validation = batches("train"), batches("validation")
    if too_long:
        work.report.warn(f"{too_long} examples are longer than the context of {context} tokens and were left out")
    torch.manual_seed(config.seed)
    model = base.gpt

    def evaluate(model: nn.Module) -> Metrics:
        total, count = 0.0, 0
        for batch in validation.in_order():
            loss, n = next_token_loss(model, batch.to(device()))  # type: ignore[arg-type]
            total, count = total + loss.item(), count + int(n)
        return {"val/loss": total / count}

    assistant = Assistant(model, base.tokenizer, template)
    shown = examples.rows("validation")[:5]

    def show(step: int) -> None:
        prompts = [assistant.prompt(row.instruction or "", row.input or "", row.history) for row in shown]
        answers = assistant.complete(prompts, max_new_tokens=60, temperature=0)
        pairs = [f"> {row.instruction}\n{answer}" for row, answer in zip(shown, answers, strict=True)]
        work.report.text(f"samples/step-{step:06d}.txt", "\n\n".join(pairs) + "\n")

    result = fit(model, train, config, work, evaluate=evaluate, show=show)
    save_model(model, out, base.tokenizer.end_of_text)
    shutil.copy(inputs["model"].file("tokenizer.json"), out / "tokenizer.json")
    save_template(template, out / "template.json")
    return {
        "task": "instruction",
        **training_statistics(model, result),
        "too_long": too_long,
        "epochs": round(result.step * config.accumulation / train.batches_per_epoch, 2),
    }


def training_pair(tokenizer: Tokenizer, template: Template, example: Example) -> tuple[list[int], list[int]]:
    """Input ids and targets of one exchange.

    Prompt and response are encoded apart, so that the tokens at their border are those the model will meet when
    it answers. Targets are the ids one place on; those of the prompt are `IGNORE`; the last is the end of text.
    """
    prompt = prompt_tokens(tokenizer, template, example.instruction or "", example.input or "", example.history)
    response = [*tokenizer.encode(example.response or "").tolist(), tokenizer.end_of_text]
    ids = prompt + response
    targets = [IGNORE] * (len(prompt) - 1) + response
    return ids[:-1], targets


_MODULES = ("pipelines.finetune_assistant", "pipelines.model", "gpt.classifier", *MODULES)


FINETUNE_ASSISTANT = StepType(
    "finetune-assistant",
    kind="model",
    version=1,
    config=AssistantConfig,
    run=run_assistant,
    modules=(*_MODULES, "pipelines.templates"),
)
