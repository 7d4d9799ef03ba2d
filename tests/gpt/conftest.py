"""Fixtures: small models, random batches, and the reference implementation of GPT-2."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gpt.batch import Batch
from gpt.config import GPTConfig, gpt_config
from gpt.model import GPT

torch.set_num_threads(1)  # small models are slower on two threads, and far slower on a busy machine


@pytest.fixture
def make_model() -> Callable[..., GPT]:
    """Return a function that makes a model of the smallest size, with weights random enough that outputs differ."""

    def make(preset: str = "gpt2", seed: int = 0, **overrides: Any) -> GPT:
        torch.manual_seed(seed)
        model = GPT(gpt_config("pico", preset, **{"vocabulary": 97, "context": 32, **overrides}))
        with torch.no_grad():
            for p in model.parameters():
                if p.ndim == 2:
                    p.normal_(std=0.08)
                else:
                    p.add_(0.1 * torch.randn_like(p))
        return model.eval()

    return make


@pytest.fixture
def make_batches() -> Callable[..., Callable[[int, int], Batch]]:
    """Return a function that makes random batches, a pure function of step and micro-batch."""

    def make(rows: int = 4, time: int = 16, vocabulary: int = 97, ignored: float = 0.0) -> Callable[[int, int], Batch]:
        def batches(step: int, micro: int) -> Batch:
            generator = torch.Generator().manual_seed(1000 * step + micro)
            ids = torch.randint(0, vocabulary, (rows, time + 1), generator=generator)
            targets = ids[:, 1:].clone()
            targets[torch.rand(targets.shape, generator=generator) < ignored * (micro + 1)] = -100
            return Batch(ids[:, :-1], targets)

        return batches

    return make


@pytest.fixture
def reference() -> Callable[[GPT], Any]:
    """Return a function that makes a `transformers` GPT-2 with the weights of our model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from gpt.weights import TRANSPOSED, describe, gpt2_name

    def make(model: GPT) -> Any:
        config: GPTConfig = model.config
        theirs = GPT2LMHeadModel(GPT2Config(**describe(config)))
        weights = {gpt2_name(name): t for name, t in model.state_dict().items()}
        weights = {f"transformer.{n}": t.T if TRANSPOSED.search(n) else t for n, t in weights.items()}
        missing, unexpected = theirs.load_state_dict(weights, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not unexpected
        theirs.tie_weights()
        return theirs.eval()

    return make
