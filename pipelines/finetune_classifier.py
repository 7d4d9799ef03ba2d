"""Fine-tune a pretrained GPT into a classifier of texts."""

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
from gpt.loss import IGNORE, classification_loss
from gpt.train import Metrics, TrainConfig
from gpt.weights import save_classifier
from pipelines.datasets import Examples
from pipelines.errors import InputError
from pipelines.model import classifier_tokens, open_gpt
from pipelines.step import StepType, Work
from pipelines.store import Dataset
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


_MODULES = ("pipelines.finetune_classifier", "pipelines.model", "gpt.classifier", *MODULES)


FINETUNE_CLASSIFIER = StepType(
    "finetune-classifier", kind="model", version=1, config=ClassifierConfig, run=run_classifier, modules=_MODULES
)
