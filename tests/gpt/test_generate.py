from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.config import PRESETS, gpt_config
from gpt.generate import _draw, _probabilities, generate, stream
from gpt.model import GPT

Make = Callable[..., GPT]
PROMPTS = [[5], [1, 2, 3], [9, 8, 7, 6, 5, 4, 3, 2], [1, 2, 3]]


def without_cache(model: GPT, prompt: list[int], n: int) -> list[int]:
    """Greedy, the whole window read anew for every token."""
    text, start, context = list(prompt), 0, model.config.context
    for _ in range(n):
        while len(text) - start > context:
            start += context // 2
        text.append(int(model(torch.tensor([text[start:]]))[0, -1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("prompt", [[3], list(range(31)), list(range(32)), list(range(50))])
@torch.no_grad()
def test_with_and_without_cache_agree_past_the_end_of_the_context(
    make_model: Make, preset: str, prompt: list[int]
) -> None:
    model = make_model(preset)
    assert generate(model, [prompt], 80) == [without_cache(model, prompt, 80)]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_each_prompt_what_it_gets_alone(make_model: Make, preset: str, temperature: float) -> None:
    model = make_model(preset)
    settings = {"temperature": temperature, "top_k": 40, "top_p": 0.95, "seed": 3}
    together = generate(model, PROMPTS[:3], 60, **settings)
    assert together == [generate(model, [prompt], 60, **settings)[0] for prompt in PROMPTS[:3]]


def test_a_seed_gives_the_same_text_and_another_seed_another(make_model: Make) -> None:
    model = make_model()
    first, again, other = (generate(model, [[1, 2]], 20, temperature=1.0, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


def test_the_same_prompt_twice_gets_two_draws(make_model: Make) -> None:
    rows = generate(make_model(), PROMPTS, 20, temperature=1.0)
    assert rows[1] != rows[3]


def test_generation_leaves_the_models_mode_and_the_global_random_stream_alone(make_model: Make) -> None:
    model = make_model(dropout=0.5).train()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    generate(model, [[1]], 5, temperature=1.0)
    assert model.training and torch.equal(torch.rand(3), expected)


def test_a_stop_sequence_ends_its_row_alone_and_is_left_out(make_model: Make) -> None:
    model = make_model()
    free = generate(model, PROMPTS, 30, temperature=1.0)
    stop = free[0][10:12]
    at = next(i for i in range(2, 31) if free[0][:i][-2:] == stop)
    stopped = generate(model, PROMPTS, 30, temperature=1.0, stop=[stop])
    assert stopped[0] == free[0][: at - 2]
    for row, whole in zip(stopped[1:], free[1:], strict=True):
        assert row == whole[: len(row)]


@given(seed=st.integers(0, 50), stops=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), max_size=3))
@settings(max_examples=30, deadline=None)
def test_streaming_yields_what_generate_returns(seed: int, stops: list[list[int]]) -> None:
    torch.manual_seed(seed)
    model = GPT(gpt_config("pico", vocabulary=5, context=16))
    wanted = generate(model, [[1, 2]], 30, temperature=1.0, seed=seed, stop=stops)[0]
    assert list(stream(model, [1, 2], 30, temperature=1.0, seed=seed, stop=stops)) == wanted


def test_streaming_does_not_wait_for_the_end(make_model: Make) -> None:
    tokens = stream(make_model(), [1], 10**9)
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
    ("prompts", "settings", "sentence"),
    [
        ([[]], {}, "prompt 0 is empty"),
        ([[1], [97]], {}, "prompt 1 holds token 97"),
        ([[1]], {"temperature": -1.0}, "temperature is -1.0"),
        ([[1]], {"top_k": 0}, "top_k is 0"),
        ([[1]], {"top_p": 1.5}, "top_p is 1.5"),
        ([[1]], {"stop": [[]]}, "stop sequence is empty"),
    ],
)
def test_bad_settings_say_what_is_wrong(
    make_model: Make, prompts: list[list[int]], settings: dict, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        generate(make_model(), prompts, 3, **settings)


def test_nothing_to_do_is_fine(make_model: Make) -> None:
    assert generate(make_model(), [], 5) == []
    assert generate(make_model(), [[1]], 0) == [[]]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_that_has_generated_can_still_learn(make_model: Make, preset: str) -> None:
    model = make_model(preset)
    generate(model, [[1, 2]], 3)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("seed", [-1, -(10**30), 2**63, 10**30])
def test_any_whole_number_is_a_seed(make_model: Make, seed: int) -> None:
    model = make_model()
    first, again, other = (generate(model, [[1, 2]], 20, temperature=1.0, seed=each) for each in (seed, seed, seed + 1))
    assert first == again != other
