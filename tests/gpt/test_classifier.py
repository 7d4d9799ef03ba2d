from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gpt.batch import Batch
from gpt.classifier import Classifier, Decision, freeze
from gpt.config import gpt_config
from gpt.loss import classification_loss
from gpt.model import GPT
from gpt.train import TrainConfig, train

Make = Callable[..., GPT]


@pytest.mark.parametrize("pooling", ["last", "mean"])
@given(padding=st.integers(0, 20), token=st.integers(0, 96))
@settings(max_examples=20, deadline=None)
def test_padding_changes_no_logit(pooling: str, padding: int, token: int) -> None:
    torch.manual_seed(0)
    model = Classifier(GPT(gpt_config("pico", vocabulary=97, context=32)), 3, pooling).eval()
    texts = [torch.randint(0, 97, (n,)) for n in (3, 12, 7)]
    padded = torch.full((3, 12 + padding), token)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    with torch.no_grad():
        together = model(padded, torch.tensor([3, 12, 7]))
        for row, text in zip(together, texts, strict=True):
            torch.testing.assert_close(row, model(text[None])[0], atol=1e-5, rtol=0)


def count_trainable(model: Classifier) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_freeze_leaves_only_the_named_part_trainable(make_model: Make) -> None:
    model = Classifier(make_model(), 2)
    head = sum(p.numel() for p in model.head.parameters())
    block = sum(p.numel() for p in model.gpt.blocks[0].parameters())
    freeze(model, "head")
    assert count_trainable(model) == head
    freeze(model, "last:1")
    assert count_trainable(model) == head + block + 2 * 64
    freeze(model, "all")
    assert count_trainable(model) == sum(p.numel() for p in model.parameters())
    linear = [(m.in_features, m.out_features) for m in model.gpt.blocks.modules() if isinstance(m, nn.Linear)]
    freeze(model, "lora", rank=3)
    assert count_trainable(model) == head + 3 * sum(map(sum, linear))
    for trainable in ("last:0", "last:3", "last:x", "some"):
        with pytest.raises(ValueError, match="last:N with N from 1 to 2"):
            freeze(model, trainable)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_classifier_learns_two_classes(make_model: Make, pooling: str) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 97, (32, 8))
    labels = torch.arange(32) % 2
    ids[:, 3] = 10 + labels
    model = Classifier(make_model(), 2, pooling)
    config = TrainConfig(steps=60, learning_rate=3e-3)
    train(model, lambda step, micro: Batch(ids, labels, torch.full((32,), 8)), config, loss=classification_loss)
    assert (model.eval()(ids).argmax(1) == labels).all()


def test_unknown_pooling_is_rejected(make_model: Make) -> None:
    with pytest.raises(ValueError, match="choose last or mean"):
        Classifier(make_model(), 2, "max")


@given(
    rows=st.lists(st.floats(0, 1), min_size=1, max_size=9), threshold=st.floats(0, 1), positive=st.sampled_from("ab")
)
def test_threshold_decides_between_two_classes(rows: list[float], threshold: float, positive: str) -> None:
    at = "ab".index(positive)
    probabilities = np.stack([rows, 1 - np.array(rows)], axis=1)
    chosen = Decision(("a", "b"), positive, threshold).classes(probabilities)
    assert [each == at for each in chosen] == [p >= threshold for p in probabilities[:, at]]
    likelier = Decision(("a", "b"), positive).classes(probabilities)
    assert likelier.tolist() == probabilities.argmax(1).tolist()


def test_inconsistent_decision_is_rejected() -> None:
    with pytest.raises(ValueError, match="choose one of a, b"):
        Decision(("a", "b"), "c")
    with pytest.raises(ValueError, match="between two classes, not 3"):
        Decision(("a", "b", "c"), "a", 0.4)
