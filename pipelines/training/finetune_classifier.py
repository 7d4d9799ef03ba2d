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
from pydantic import Field, field_validator
from torch import Tensor, nn

from gpt.batch import IGNORE
from gpt.classifier import Classifier, Decision
from gpt.classifier import freeze as trainable
from gpt.lora import merge_lora
from gpt.loss import classification_loss
from gpt.machine import device
from gpt.model import GPT
from gpt.train import Metrics
from gpt.weights import save_classifier
from pipelines.corpus.examples import Examples
from pipelines.errors import InputError
from pipelines.models.language_model import open_gpt
from pipelines.models.text_classifier import class_probabilities
from pipelines.models.threshold import check, choose_threshold
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.tokenized_examples import TokenizedExamples, TokenizeExamplesConfig
from pipelines.training.batches import PaddedBatches
from pipelines.training.fit import FinetuneConfig, fit, training_headline, training_statistics


class ClassifierConfig(FinetuneConfig):
    """How a classifier is fine-tuned."""

    batch_size: int = Field(default=32, gt=0, description="Texts in a micro-batch.")
    trainable: str = Field(
        default="last:2",
        pattern=r"^(all|head|last:[1-9][0-9]*|lora)$",
        description="What learns: all, head, last:N for the head, the last N blocks and the final norm, or lora.",
    )
    from_scratch: bool = Field(
        default=False, description="Start from random weights, which all learn, and not from the pretrained ones."
    )
    pooling: Literal["last", "mean"] = Field(
        default="last", description="What the head reads: last token, or the mean."
    )
    balance: Literal["none", "weights", "sampling"] = Field(
        default="none", description="Rare classes: as they come, with larger weights, or drawn as often as others."
    )
    positive: str | None = Field(
        default=None,
        description="The label that precision, recall and F1 are about; by default the rarest in training.",
    )
    threshold: str | None = Field(
        default=None,
        description="What the decision threshold of two classes is to make best on validation: f1, balanced_accuracy, "
        "accuracy, or precision:P (most recall at that precision). By default the likelier class wins.",
    )

    @field_validator("threshold")
    @classmethod
    def _known(cls, metric: str | None) -> str | None:
        return metric and check(metric)

    @property
    def lessons(self) -> TokenizeExamplesConfig:
        """How the examples are written."""
        return TokenizeExamplesConfig()


def run_classifier(
    inputs: Mapping[str, Dataset], config: ClassifierConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Put a classification head on the model, train on the examples' train split, choose a threshold on validation."""
    base = open_gpt(inputs["model"].path)
    examples = Examples(inputs["examples"])
    labels = class_labels(examples)
    positive = positive_label(examples, labels, config.positive)
    if config.threshold and len(labels) > 2:
        raise InputError(f"training.threshold: there are {len(labels)} labels, and a threshold decides between two.")
    lessons = TokenizedExamples(inputs["lessons"])

    def batches(split: str) -> PaddedBatches:
        targets = [labels.index(label) if label in labels else IGNORE for label in lessons.labels(split)]
        draw = balanced_draw(np.array(targets)) if config.balance == "sampling" and split == "train" else None
        return PaddedBatches(lessons.tokens(split), targets, config.batch_size, config.accumulation, config.seed, draw)

    train, validation = batches("train"), batches("validation")
    known = np.array(validation.targets) != IGNORE
    if not known.all():
        work.listener.warn(
            f"{(~known).sum()} validation examples have labels that training never saw; they do not count"
        )
    if not known.any():
        raise InputError(f"{inputs['examples']}: no validation example has a label that its train split has.")
    torch.manual_seed(config.seed)
    gpt = GPT(base.gpt.config).to(device()) if config.from_scratch else base.gpt
    model = Classifier(gpt, len(labels), config.pooling).to(device())
    try:
        trainable(model, "all" if config.from_scratch else config.trainable, config.lora_rank, config.lora_alpha)
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
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    merge_lora(model)
    threshold = None
    if config.threshold:
        probabilities = class_probabilities(model, validation.sequences)[:, labels.index(positive)]
        is_positive = np.array(validation.targets) == labels.index(positive)
        threshold = choose_threshold(is_positive[known], probabilities[known], config.threshold)
        if threshold is None:
            work.listener.warn("validation examples are all of one class: the likelier class wins, without a threshold")
    save_classifier(model, Decision(tuple(labels), positive, threshold), out)
    shutil.copy(inputs["model"].file("tokenizer.json"), out / "tokenizer.json")
    return {
        "task": "classification",
        **training_statistics(model, result),
        "parameters_trained": learnt,
        "classes": len(labels),
        "positive": positive,
        **({} if threshold is None else {"threshold": threshold}),
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


def positive_label(examples: Examples, labels: Sequence[str], wanted: str | None) -> str:
    """The label that is looked for: the wanted one, or the rarest of the train split.

    Raises:
        InputError: the train split does not have the wanted one.
    """
    if wanted is not None and wanted not in labels:
        raise InputError(f"training.positive: {wanted!r} is none of the labels {', '.join(labels)}.")
    counts = Counter(row.label for row in examples.rows("train"))
    return wanted or min(labels, key=lambda label: counts[label])


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


FINETUNE_CLASSIFIER = StepType(
    "finetune-classifier",
    kind="model",
    version=2,
    config=ClassifierConfig,
    run=run_classifier,
    packages=("gpt", "pipelines.models", "pipelines.training"),
    headline=training_headline,
)
