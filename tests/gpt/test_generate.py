from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.config import PRESETS, gpt_config
from gpt.generate import Sampling, _draw, _probabilities, generate, stream
from gpt.model import GPT

pytestmark = pytest.mark.integration

Make = Callable[..., GPT]
PROMPTS = [[5], [1, 2, 3], [9, 8, 7, 6, 5, 4, 3, 2], [1, 2, 3]]


def generate_without_cache(model: GPT, prompt: list[int], n: int) -> list[int]:
    """Generate n tokens greedily, reading the whole window again for each."""
    text, start, context = list(prompt), 0, model.config.context
    for _ in range(n):
        while len(text) - start > context:
            start += context // 2
        text.append(int(model(torch.tensor([text[start:]]))[0, -1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("prompt", [[3], list(range(31)), list(range(32)), list(range(50))])
@torch.no_grad()
def test_cache_changes_no_token_even_past_the_context(make_model: Make, preset: str, prompt: list[int]) -> None:
    model = make_model(preset)
    assert generate(model, [prompt], Sampling(80)) == [generate_without_cache(model, prompt, 80)]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompt_gets_same_text_alone_and_in_batch(make_model: Make, preset: str, temperature: float) -> None:
    model = make_model(preset)
    sampling = Sampling(60, temperature=temperature, top_k=40, top_p=0.95, seed=3)
    together = generate(model, PROMPTS[:3], sampling)
    assert together == [generate(model, [prompt], sampling)[0] for prompt in PROMPTS[:3]]


@pytest.mark.parametrize("seed", [7, -1, -(10**30), 2**63, 10**30])
def test_any_whole_number_is_a_seed(make_model: Make, seed: int) -> None:
    model = make_model()
    first, again, other = (
        generate(model, [[1, 2]], Sampling(20, temperature=1.0, seed=each)) for each in (seed, seed, seed + 1)
    )
    assert first == again != other


def test_repeated_prompt_gets_two_draws(make_model: Make) -> None:
    rows = generate(make_model(), PROMPTS, Sampling(20, temperature=1.0))
    assert rows[1] != rows[3]


def test_generation_keeps_training_mode_and_global_random_state(make_model: Make) -> None:
    model = make_model(dropout=0.5).train()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    generate(model, [[1]], Sampling(5, temperature=1.0))
    assert model.training and torch.equal(torch.rand(3), expected)


def test_stop_sequence_ends_only_its_row_and_is_removed(make_model: Make) -> None:
    model = make_model()
    free = generate(model, PROMPTS, Sampling(30, temperature=1.0))
    stop = free[0][10:12]
    at = next(i for i in range(2, 31) if free[0][:i][-2:] == stop)
    stopped = generate(model, PROMPTS, Sampling(30, temperature=1.0, stop=[stop]))
    assert stopped[0] == free[0][: at - 2]
    for row, whole in zip(stopped[1:], free[1:], strict=True):
        assert row == whole[: len(row)]


@given(seed=st.integers(0, 50), stops=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=3))
@settings(max_examples=30, deadline=None)
def test_stream_yields_what_generate_returns(seed: int, stops: list[list[int]]) -> None:
    torch.manual_seed(seed)
    model = GPT(gpt_config("pico", vocabulary=5, context=16))
    sampling = Sampling(30, temperature=1.0, seed=seed, stop=stops)
    assert list(stream(model, [1, 2], sampling)) == generate(model, [[1, 2]], sampling)[0]


def test_stream_yields_before_the_end(make_model: Make) -> None:
    tokens = stream(make_model(), [1], Sampling(10**9))
    assert len([next(tokens) for _ in range(5)]) == 5


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()
    assert _probabilities(logits, 2, None).nonzero()[:, 1].tolist() == [0, 1]
    assert _probabilities(logits, None, 0.6).nonzero()[:, 1].tolist() == [0, 1]
    assert _probabilities(logits, None, 0.01).nonzero()[:, 1].tolist() == [0]


def test_draws_follow_the_probabilities() -> None:
    weights = torch.tensor([[0.0, 0.7, 0.0, 0.3]]).expand(20_000, 4)
    tokens = _draw(weights, torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    share = torch.bincount(tokens, minlength=4) / 20_000
    torch.testing.assert_close(share, weights[0], atol=0.02, rtol=0)
    assert share[0] == share[2] == 0


@pytest.mark.parametrize(
    ("prompts", "sentence"), [([[]], "prompt 0 is empty"), ([[1], [97]], "prompt 1 holds token 97")]
)
def test_bad_prompt_raises_a_sentence(make_model: Make, prompts: list[list[int]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate(make_model(), prompts, Sampling(3))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": [[]]}, "stop sequence is empty"),
    ],
)
def test_bad_setting_raises_a_sentence(setting: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Sampling(**{"max_new_tokens": 3, **setting})


def test_no_prompts_or_no_tokens_give_empty_results(make_model: Make) -> None:
    assert generate(make_model(), [], Sampling(5)) == []
    assert generate(make_model(), [[1]], Sampling(0)) == [[]]


@pytest.mark.parametrize("preset", PRESETS)
def test_model_can_learn_after_generation(make_model: Make, preset: str) -> None:
    model = make_model(preset)
    generate(model, [[1, 2]], Sampling(3))
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
