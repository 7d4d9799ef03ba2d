"""Fine-tune: a pretrained GPT and examples to a classifier, or to an assistant that follows instructions."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from gpt.classifier import Classifier, trainable
from gpt.loss import IGNORE, classification_loss, next_token_loss
from gpt.train import Metrics, TrainConfig
from gpt.weights import save_classifier, save_model
from pipelines.datasets import Example, Examples
from pipelines.errors import InputError
from pipelines.model import Assistant, classifier_tokens, open_gpt, prompt_tokens
from pipelines.step import StepType, Work
from pipelines.store import Dataset
from pipelines.templates import Template, save_template, template_named
from pipelines.tokenizers import Tokenizer
from pipelines.training import MODULES, PaddedBatches, device, fit, training_statistics


class ClassifierConfig(TrainConfig):
    """How a classifier is fine-tuned."""

    batch_size: int = Field(default=32, gt=0, description="Texts in a micro-batch.")
    trainable: str = Field(
        default="last:2", description="What learns: all, head, or last:N for head and last N blocks."
    )
    pooling: Literal["last", "mean"] = Field(
        default="last", description="What the head reads: last token, or the mean."
    )
    balance: Literal["none", "weights", "sampling"] = Field(
        default="none", description="Rare classes: as they come, with larger weights, or drawn as often as others."
    )


def run_classifier(inputs: Mapping[str, Dataset], config: ClassifierConfig, out: Path, work: Work) -> dict[str, Any]:
    """Put a classification head on the model's last token and train on the examples' train split."""
    base = open_gpt(inputs["model"].path)
    examples = Examples(inputs["examples"])
    labels = class_labels(examples)
    context = base.gpt.config.context

    def batches(split: str) -> PaddedBatches:
        rows = examples.rows(split)
        if not rows:
            raise InputError(
                f"{inputs['examples']} has no {split} examples; give it more, or another share for {split}."
            )
        sequences = [classifier_tokens(base.tokenizer, row.text, context) for row in rows]
        targets = [labels.index(row.label) if row.label in labels else IGNORE for row in rows]
        draw = balanced_draw(np.array(targets)) if config.balance == "sampling" and split == "train" else None
        return PaddedBatches(sequences, targets, config.batch_size, config.accumulation, config.seed, draw)

    train, validation = batches("train"), batches("validation")
    torch.manual_seed(config.seed)
    model = Classifier(base.gpt, len(labels), config.pooling).to(device())
    try:
        trainable(model, config.trainable)
    except ValueError as error:
        raise InputError(f"training.trainable: {error}.") from None
    weights = balanced_weights(train.targets, len(labels)).to(device()) if config.balance == "weights" else None

    def evaluate(model: nn.Module) -> Metrics:
        assert isinstance(model, Classifier)
        total, count, right = 0.0, 0, 0
        for batch in validation.in_order():
            batch = batch.to(device())
            logits = model(batch.inputs, batch.lengths)
            total += nn.functional.cross_entropy(logits, batch.targets, reduction="sum", ignore_index=IGNORE).item()
            right += int((logits.argmax(-1) == batch.targets).sum())
            count += int((batch.targets != IGNORE).sum())
        return {"val/loss": total / count, "val/accuracy": right / count}

    loss = partial(classification_loss, class_weights=weights)
    result = fit(model, train, config, work, evaluate=evaluate, loss=loss)
    save_classifier(model, labels, out)
    shutil.copy(inputs["model"].file("tokenizer.json"), out / "tokenizer.json")
    return {
        "task": "classification",
        **training_statistics(model, result),
        "classes": len(labels),
        "epochs": round(result.step * config.accumulation / train.batches_per_epoch, 2),
    }


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


def class_labels(examples: Examples) -> list[str]:
    """The labels of the train split, in alphabetical order.

    Raises:
        InputError: there are fewer than two.
    """
    labels = sorted({row.label or "" for row in examples.rows("train")})
    if len(labels) < 2:
        raise InputError(f"{examples.dataset} has the one label {labels} in its train split; a classifier needs two.")
    return labels


def balanced_weights(targets: Sequence[Any], n_classes: int) -> Tensor:
    """Weights (classes,) inverse to the classes' frequencies, with mean one over the examples."""
    counts = Counter(targets)
    return torch.tensor([len(targets) / (n_classes * max(counts[i], 1)) for i in range(n_classes)], dtype=torch.float)


def balanced_draw(targets: np.ndarray) -> Any:
    """An epoch in which every class is drawn equally often, rarer ones again and again."""
    classes = [np.flatnonzero(targets == label) for label in np.unique(targets[targets != IGNORE])]

    def draw(rng: np.random.Generator) -> np.ndarray:
        each = -(-len(targets) // len(classes))
        drawn = [
            np.concatenate([rng.permutation(rows) for _ in range(-(-each // len(rows)))])[:each] for rows in classes
        ]
        return rng.permutation(np.concatenate(drawn))

    return draw


_MODULES = ("pipelines.finetune", "pipelines.model", "gpt.classifier", *MODULES)

FINETUNE_CLASSIFIER = StepType(
    "finetune-classifier", kind="model", version=1, config=ClassifierConfig, run=run_classifier, modules=_MODULES
)
FINETUNE_ASSISTANT = StepType(
    "finetune-assistant",
    kind="model",
    version=1,
    config=AssistantConfig,
    run=run_assistant,
    modules=(*_MODULES, "pipelines.templates"),
)
