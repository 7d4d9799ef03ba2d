"""Fine-tune a pretrained GPT into a classifier of texts."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from gpt.batch import IGNORE
from gpt.classifier import Classifier, Decision, freeze
from gpt.lora import merge_lora
from gpt.loss import classification_loss
from gpt.machine import device
from gpt.model import GPT
from gpt.train import Metrics
from gpt.weights import save_classifier
from pipelines.corpus.examples import Examples
from pipelines.corpus.labels import listed
from pipelines.errors import InputError
from pipelines.models.language_model import open_gpt
from pipelines.models.text_classifier import class_probabilities
from pipelines.models.threshold import check, choose_threshold
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.tokenized_examples import TokenizedExamples, TokenizeExamplesConfig
from pipelines.tokens.tokenizer import FILE
from pipelines.training.batches import PaddedBatches
from pipelines.training.fit import FinetuneConfig, fit, training_headline, training_statistics
from pipelines.training.tuning import NOTHING_TO_CHOOSE_ON, tuning_examples


class ClassifierConfig(FinetuneConfig):
    """How a classifier is fine-tuned."""

    batch_size: int = Field(32, gt=0)
    """Texts in a micro-batch."""
    trainable: str = Field("last:2", pattern=r"^(all|head|last:[1-9][0-9]*|lora)$")
    """What learns: all, head, last:N for the head, the last N blocks and the final norm, or lora."""
    from_scratch: bool = False
    """Train all weights from random ones, not from the pretrained ones."""
    pooling: Literal["last", "mean"] = "last"
    """Which hidden states the head reads: the last token's, or the mean."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Rare classes: left as they are, with larger weights, or drawn as often as others."""
    positive: str | None = Field(None, coerce_numbers_to_str=True)
    """The label that precision, recall and F1 refer to; by default the rarest in training."""
    threshold: str | None = None
    """The metric that the threshold between two classes makes best on validation: f1, balanced_accuracy, accuracy,
    or precision:P (most recall at that precision). By default the likelier class wins."""

    @field_validator("threshold")
    @classmethod
    def _check_threshold(cls, metric: str | None) -> str | None:
        return metric and check(metric)

    @property
    def tokenize_examples(self) -> TokenizeExamplesConfig:
        """Return how the examples are written."""
        return TokenizeExamplesConfig()


def run_classifier(
    inputs: Mapping[str, Dataset], config: ClassifierConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Put a classification head on the model, train on the examples' train split, choose a threshold."""
    examples, tokenized = Examples(inputs["examples"]), TokenizedExamples(inputs["lessons"])
    labels, positive = check_classes(examples, config)
    train, tuning = (_batches(tokenized, examples, split, labels, config) for split in ("train", "validation"))
    n_unknown = sum(label not in labels for label in tokenized.labels("validation"))
    if n_unknown:
        work.listener.warn(f"{n_unknown} validation examples have labels that training never saw; they do not count")
    can_choose = any(target != IGNORE for target in tuning.targets)
    if not can_choose:
        work.listener.warn(NOTHING_TO_CHOOSE_ON.format(item="example"))
    model = _new_classifier(inputs["model"].path, len(labels), config)
    tokenized.check(model.gpt.config.vocabulary, model.gpt.config.context)
    weights = balanced_weights(train.targets, len(labels)).to(device()) if config.balance == "weights" else None
    loss = partial(classification_loss, class_weights=weights)
    evaluate: Callable[[nn.Module], Metrics] = partial(_evaluate, batches=tuning) if can_choose else lambda model: {}
    result = fit(model, train, config, work, evaluate=evaluate, loss=loss)
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    merge_lora(model)
    threshold = None
    if config.threshold and can_choose:
        targets, at = np.array(tuning.targets), labels.index(positive)
        known = targets != IGNORE
        probabilities = class_probabilities(model, tuning.sequences)[known, at]
        threshold = choose_threshold(targets[known] == at, probabilities, config.threshold)
        if threshold is None:
            work.listener.warn("validation examples are all of one class: the likelier class wins, without a threshold")
    save_classifier(model, Decision(tuple(labels), positive, threshold), out)
    shutil.copy(inputs["model"].file(FILE), out / FILE)
    return {
        "task": "classification",
        **training_statistics(model, result),
        "parameters_trained": learnt,
        "classes": len(labels),
        "positive": positive,
        **({} if threshold is None else {"threshold": threshold}),
        "epochs": round(result.step * config.accumulation / train.batches_per_epoch, 2),
    }


FINETUNE_CLASSIFIER = StepType(
    "finetune-classifier",
    kind="model",
    version=3,
    config=ClassifierConfig,
    run=run_classifier,
    packages=("gpt", "pipelines.models", "pipelines.training"),
    headline=training_headline,
)


def check_classes(examples: Examples, config: ClassifierConfig) -> tuple[list[str], str]:
    """Return the labels that a classifier learns and the positive one. A run calls this before anything is trained.

    Raises:
        InputError: no classifier can be trained on the examples with this config.
    """
    counts = count_labels(examples)
    labels, positive = sorted(counts), choose_positive(counts, config.positive)
    if config.threshold and len(labels) > 2:
        raise InputError(f"training.threshold: there are {len(labels)} labels, and a threshold decides between two.")
    if not any(row.label in counts for row in examples.rows("validation")):
        raise InputError(f"{examples.dataset}: no validation example has a label that its train split has.")
    return labels, positive


def count_labels(examples: Examples) -> Counter[str]:
    """Return how often each label occurs in the train split.

    Raises:
        InputError: there are fewer than two labels.
    """
    counts = Counter(row.label or "" for row in examples.rows("train"))
    if len(counts) < 2:
        raise InputError(
            f"{examples.dataset} has the one label {listed(counts)} in its train split; a classifier needs two."
        )
    return counts


def choose_positive(counts: Counter[str], wanted: str | None) -> str:
    """Return the wanted positive label, by default the rarest.

    Raises:
        InputError: there is no such label.
    """
    labels = sorted(counts)
    if wanted is not None and wanted not in labels:
        raise InputError(f"training.positive: {wanted!r} is none of the labels {listed(labels)}.")
    return wanted or min(labels, key=lambda label: counts[label])


def _batches(
    tokenized: TokenizedExamples, examples: Examples, split: str, labels: list[str], config: ClassifierConfig
) -> PaddedBatches:
    """Return the batches of a split; of validation, those that the training may choose on.

    The target of a label that training never saw is `IGNORE`.
    """
    sequences = tokenized.tokens(split)
    targets = [labels.index(label) if label in labels else IGNORE for label in tokenized.labels(split)]
    if split == "validation":
        chosen = tuning_examples(tokenized, examples)
        sequences, targets = [sequences[i] for i in chosen], [targets[i] for i in chosen]
    draw = balanced_draw(np.array(targets)) if config.balance == "sampling" and split == "train" else None
    return PaddedBatches(sequences, targets, config.batch_size, config.accumulation, config.seed, draw)


def balanced_draw(targets: NDArray[np.int64]) -> Callable[[np.random.Generator], NDArray[np.int64]]:
    """Return a function that draws an epoch with equally many examples of every class. Rarer ones are repeated."""
    classes = [np.flatnonzero(targets == label) for label in np.unique(targets[targets != IGNORE])]
    n_each = -(-len(targets) // len(classes))

    def draw(rng: np.random.Generator) -> NDArray[np.int64]:
        drawn = [
            np.concatenate([rng.permutation(rows) for _ in range(-(-n_each // len(rows)))])[:n_each] for rows in classes
        ]
        return rng.permutation(np.concatenate(drawn))

    return draw


def balanced_weights(targets: Sequence[Any], n_classes: int) -> Tensor:
    """Return weights (classes,) inverse to the classes' frequencies, with mean 1 over the examples."""
    counts = Counter(targets)
    return torch.tensor([len(targets) / (n_classes * max(counts[i], 1)) for i in range(n_classes)], dtype=torch.float)


def _new_classifier(base: Path, n_classes: int, config: ClassifierConfig) -> Classifier:
    """Return a classifier with the weights of a base or new ones. The config decides which of them learn."""
    gpt = open_gpt(base).gpt
    torch.manual_seed(config.seed)
    if config.from_scratch:
        gpt = GPT(gpt.config).to(device())
    model = Classifier(gpt, n_classes, config.pooling).to(device())
    try:
        freeze(model, "all" if config.from_scratch else config.trainable, config.lora_rank, config.lora_alpha)
    except ValueError as error:
        raise InputError(f"training.trainable: {error}.") from None
    return model


def _evaluate(model: nn.Module, batches: PaddedBatches) -> Metrics:
    total, count, correct = 0.0, 0, 0
    for batch in batches.in_order():
        batch = batch.to(device())
        logits = model(batch.inputs, batch.lengths)  # (B, classes)
        total += nn.functional.cross_entropy(logits, batch.targets, reduction="sum", ignore_index=IGNORE).item()
        correct += int((logits.argmax(-1) == batch.targets).sum())
        count += int((batch.targets != IGNORE).sum())
    return {"val/loss": total / count, "val/accuracy": correct / count}
