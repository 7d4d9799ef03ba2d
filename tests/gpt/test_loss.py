from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import loss
from gpt.batch import IGNORE, Batch
from gpt.classifier import Classifier
from gpt.loss import classification_loss, linear_cross_entropy, next_token_loss
from gpt.model import GPT


@given(
    rows=st.integers(1, 40),
    vocabulary=st.integers(2, 70),
    chunk=st.integers(1, 500),
    ignored=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_chunked_loss_and_gradients_equal_cross_entropy(
    rows: int, vocabulary: int, chunk: int, ignored: float, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[torch.rand(rows) < ignored] = IGNORE
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum", ignore_index=IGNORE)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK", chunk)
        total, n = linear_cross_entropy(hidden, weight, targets)
        gradients = torch.autograd.grad(3 * total, (hidden, weight))
        with torch.no_grad():
            plain, _ = linear_cross_entropy(hidden, weight, targets)
    assert n == (targets != IGNORE).sum()
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(plain, expected, atol=1e-4, rtol=1e-5)
    for a, b in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_bfloat16_head_gradient_does_not_depend_on_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(512, 16, requires_grad=True), torch.randn(99, 16, requires_grad=True)
    targets = torch.randint(0, 99, (512,))
    wanted = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, targets, reduction="sum"), weight)[0]
    for rows in (512, 1):
        monkeypatch.setattr(loss, "CHUNK", rows * 99)
        with torch.autocast("cpu", torch.bfloat16):
            total, _ = linear_cross_entropy(hidden, weight, targets)
        (gradient,) = torch.autograd.grad(total, weight)
        assert (gradient - wanted).norm() < 0.005 * wanted.norm() and gradient.dtype == torch.float32


def test_frozen_head_gets_no_gradient_but_hidden_does() -> None:
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8)
    linear_cross_entropy(hidden, weight, torch.arange(5))[0].backward()
    assert hidden.grad is not None and weight.grad is None


def test_batch_without_targets_gives_zero_and_zero(make_model: Callable[..., GPT]) -> None:
    ids = torch.zeros(2, 4, dtype=torch.long)
    total, n = next_token_loss(make_model(), Batch(ids, torch.full_like(ids, IGNORE)))
    total.backward()
    assert total.item() == 0 and n == 0


def test_class_weights_scale_loss_and_count(make_model: Callable[..., GPT]) -> None:
    classifier = Classifier(make_model(), 3)
    ids, labels = torch.randint(0, 97, (6, 5)), torch.tensor([0, 1, 2, 2, 1, 0])
    weights = torch.tensor([1.0, 2.0, 0.5])
    total, n = classification_loss(classifier, Batch(ids, labels), weights)
    expected = F.cross_entropy(classifier(ids), labels, weights)
    assert n.item() == pytest.approx(7.0)
    torch.testing.assert_close(total / n, expected)
