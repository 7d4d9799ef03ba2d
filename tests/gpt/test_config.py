import pytest
import torch
from pydantic import ValidationError

from gpt.config import PRESETS, SIZES, GPTConfig, gpt_config
from gpt.model import GPT


def count_parameters(size: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in GPT(gpt_config(size)).parameters())


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_gpt2_sizes_have_the_published_number_of_parameters(size: str, parameters: int) -> None:
    assert count_parameters(size) == parameters


@pytest.mark.parametrize(
    ("size", "billions"),
    [
        ("gpt3-125m", 0.125),
        ("gpt3-350m", 0.356),
        ("gpt3-760m", 0.760),
        ("gpt3-1.3b", 1.3),
        ("gpt3-2.7b", 2.7),
        ("gpt3-6.7b", 6.7),
        ("gpt3-13b", 13.0),
        ("gpt3-175b", 175.0),
    ],
)
def test_gpt3_sizes_are_within_two_percent_of_the_paper(size: str, billions: float) -> None:
    assert count_parameters(size) / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_works_with_every_preset(size: str, preset: str) -> None:
    config = gpt_config(size, preset)
    assert config.width % config.heads == 0


def test_overrides_replace_the_preset() -> None:
    assert gpt_config("gpt2", "modern", tied=True, vocabulary=65).tied


def test_unknown_size_error_names_the_known_sizes() -> None:
    with pytest.raises(ValueError, match="gpt2-medium"):
        gpt_config("gpt2-huge")


def test_unknown_key_is_rejected() -> None:
    with pytest.raises(ValidationError, match="extra"):
        GPTConfig(widht=3)  # type: ignore[call-arg]


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValidationError, match="not a multiple of heads"):
        GPTConfig(width=100, heads=3)


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in GPTConfig.model_fields.values())
