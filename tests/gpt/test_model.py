import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.batch import Batch
from gpt.config import PRESETS, GPTConfig, gpt_config
from gpt.loss import next_token_loss
from gpt.model import GPT, Block, Cache
from gpt.optim import OptimizerConfig, make_optimizers

Make = Callable[..., GPT]


@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 1, "heads": 1, "width": 8, "context": 4, "vocabulary": 11},
        {"layers": 2, "heads": 4, "width": 64, "context": 32, "vocabulary": 97},
        {"layers": 3, "heads": 3, "width": 48, "context": 64, "vocabulary": 1000},
    ],
)
def test_logits_match_transformers(make_model: Make, reference: Callable[..., Any], shape: Any) -> None:
    model = make_model(**shape)
    ids = torch.randint(0, shape["vocabulary"], (3, shape["context"]))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), reference(model)(ids).logits, atol=1e-4, rtol=0)


def test_gradients_and_ten_adamw_losses_match_transformers(make_model: Make, reference: Callable[..., Any]) -> None:
    ours = make_model()
    theirs = reference(ours)
    ids = torch.randint(0, 97, (4, 17))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    config = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0)
    mine, yours = make_optimizers(ours, config)[0], torch.optim.AdamW(theirs.parameters(), 1e-3, (0.9, 0.95), 1e-8, 0.0)
    for step in range(10):
        total, n = next_token_loss(ours, batch)
        loss = F.cross_entropy(theirs(batch.inputs).logits.flatten(0, 1), batch.targets.flatten())
        assert total.item() / n.item() == pytest.approx(loss.item(), abs=1e-4)
        (total / n).backward()
        loss.backward()
        if step == 0:
            for a, b in (
                (ours.tokens, theirs.transformer.wte),
                (ours.positions, theirs.transformer.wpe),
                (ours.norm, theirs.transformer.ln_f),
            ):
                torch.testing.assert_close(a.weight.grad, b.weight.grad, atol=1e-5, rtol=1e-3)
            for ours_block, block in zip(ours.blocks, theirs.transformer.h, strict=True):
                for a, b in (
                    (ours_block.attention.qkv, block.attn.c_attn),
                    (ours_block.attention.output, block.attn.c_proj),
                    (ours_block.mlp.input, block.mlp.c_fc),
                    (ours_block.mlp.output, block.mlp.c_proj),
                ):
                    torch.testing.assert_close(a.weight.grad.T, b.weight.grad, atol=1e-5, rtol=1e-3)
                    torch.testing.assert_close(a.bias.grad, b.bias.grad, atol=1e-5, rtol=1e-3)
        for optimizer in (mine, yours):
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(("vocabulary", "width"), [(65, 128), (1000, 64), (4096, 256)])
def test_first_loss_matches_the_initialisation(vocabulary: int, width: int) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocabulary=vocabulary, context=64, layers=4, heads=4, width=width))
    ids = torch.randint(0, vocabulary, (32, 65))
    total, n = next_token_loss(model, Batch(ids[:, :-1], ids[:, 1:]))
    assert total.item() / n.item() == pytest.approx(math.log(vocabulary) + width * 0.02**2 / 2, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
@given(cut=st.integers(1, 31), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_future_token_changes_no_past_logit(preset: str, cut: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = GPT(gpt_config("pico", preset, vocabulary=50, context=32, zero_init=False)).eval()
    ids = torch.randint(0, 50, (1, 32))
    changed = ids.clone()
    changed[:, cut:] = (changed[:, cut:] + 1) % 50
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :cut], after[:, :cut], atol=1e-6, rtol=0)
    assert not torch.allclose(before[:, cut:], after[:, cut:], atol=1e-4)


def test_block_without_causal_mask_attends_to_later_tokens() -> None:
    torch.manual_seed(0)
    block = Block(gpt_config("pico"), causal=False)
    x = torch.randn(1, 8, 64)
    changed = x.clone()
    changed[:, -1] = torch.randn(64)
    assert not torch.allclose(block(x)[:, 0], block(changed)[:, 0], atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_packed_documents_do_not_attend_to_each_other(make_model: Make, preset: str) -> None:
    model = make_model(preset)
    one, two = torch.randint(0, 97, (1, 5)), torch.randint(0, 97, (1, 7))
    packed = torch.cat([one, two], 1)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    positions = torch.tensor([[*range(5), *range(7)]])
    with torch.no_grad():
        logits = model(packed, positions=positions, documents=documents)
        torch.testing.assert_close(logits[:, :5], model(one), atol=1e-5, rtol=0)
        torch.testing.assert_close(logits[:, 5:], model(two), atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_cached_reading_in_pieces_gives_the_same_logits(make_model: Make, preset: str) -> None:
    model = make_model(preset)
    ids = torch.randint(0, 97, (2, 20))
    cache = Cache(model, 2, 20)
    with torch.no_grad():
        pieces = [model(part, cache=cache) for part in ids.split([7, 1, 1, 5, 6], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-5, rtol=0)


def test_full_cache_raises(make_model: Make) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="holds 4 tokens"):
        model(torch.zeros(1, 5, dtype=torch.long), cache=Cache(model, 1, 4))


def test_sequence_longer_than_the_context_raises(make_model: Make) -> None:
    with pytest.raises(ValueError, match="context of 32"):
        make_model()(torch.zeros(1, 33, dtype=torch.long))


@pytest.mark.parametrize("preset", PRESETS)
def test_recomputed_activations_give_the_same_gradients(make_model: Make, preset: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = make_model(preset, dropout=0.1).train()
        model.recompute = recompute
        torch.manual_seed(1)
        ids = torch.randint(0, 97, (2, 17))
        next_token_loss(model, Batch(ids[:, :-1], ids[:, 1:]))[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_flops_per_token_count_matrices_and_attention() -> None:
    model = GPT(GPTConfig(vocabulary=100, context=16, layers=2, heads=2, width=8))
    assert model.flops_per_token(16) == 6 * (2 * 12 * 8 * 8 + 100 * 8) + 6 * 2 * 8 * 16


@pytest.mark.parametrize("tied", [True, False])
def test_new_token_ids_start_as_the_mean_of_the_others(tied):
    torch.manual_seed(0)
    gpt = GPT(gpt_config("pico", vocabulary=20, context=8, tied=tied)).eval()
    ids = torch.arange(8)[None]
    before = gpt(ids)
    gpt.extend(23)
    after = gpt(ids)
    assert torch.equal(after[..., :20], before) and after.shape[-1] == gpt.config.vocabulary == 23
    torch.testing.assert_close(after[..., 20:], before.mean(-1, keepdim=True).expand(-1, -1, 3))
    torch.testing.assert_close(gpt.tokens.weight[22], gpt.tokens.weight[:20].mean(0))
    gpt.extend(23)
    assert gpt.config.vocabulary == 23
