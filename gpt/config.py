"""The architecture of a GPT as numbers: its config, a table of named sizes, and two presets."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Base class of every config: frozen, and unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GPTConfig(Config):
    """The complete architecture of a GPT: all that decides the shapes and the computation of the model.

    A resolved config no longer depends on the names of sizes and presets, so equal configs describe the same model.
    The defaults are the smallest GPT-2 (Radford et al. 2019).

    Raises:
        ValidationError: a value is out of range, a key is unknown, or heads and width do not fit together.
    """

    vocabulary: int = Field(50257, gt=0)
    """Number of token ids."""
    context: int = Field(1024, gt=0)
    """Longest sequence the model attends over, in tokens."""
    layers: int = Field(12, gt=0)
    """Number of transformer blocks."""
    heads: int = Field(12, gt=0)
    """Attention heads in a block; divides the width."""
    width: int = Field(768, gt=0)
    """Channels of the residual stream."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of activations dropped while training."""
    positions: Literal["learned", "rotary"] = "learned"
    """Encoding of a token's position."""
    qk_norm: bool = False
    """Normalise queries and keys within each head."""
    activation: Literal["gelu", "relu2"] = "gelu"
    """Nonlinearity of the MLP."""
    bias: bool = True
    """Biases in linear layers and layer norms."""
    tied: bool = True
    """The output head is the token embedding."""
    zero_init: bool = False
    """Projections into the residual stream start at zero."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}: change one of the two")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.width // self.heads}")
        return self


# Columns: layers, heads, width, context. The rows of GPT-3 are table 2.1 of Brown et al. (2020), with one correction:
# the printed width of the 13B row, 5140, is no multiple of its 40 heads. 5120 gives the stated number of parameters.
SIZES: dict[str, dict[str, int]] = {
    name: dict(zip(("layers", "heads", "width", "context"), row, strict=True))
    for name, row in {
        "pico": (2, 2, 64, 64),
        "nano": (4, 4, 128, 128),
        "micro": (6, 6, 192, 256),
        "mini": (6, 4, 256, 256),
        "small": (8, 6, 384, 512),
        "gpt2": (12, 12, 768, 1024),
        "gpt2-medium": (24, 16, 1024, 1024),
        "gpt2-large": (36, 20, 1280, 1024),
        "gpt2-xl": (48, 25, 1600, 1024),
        "gpt3-125m": (12, 12, 768, 2048),
        "gpt3-350m": (24, 16, 1024, 2048),
        "gpt3-760m": (24, 16, 1536, 2048),
        "gpt3-1.3b": (24, 16, 2048, 2048),
        "gpt3-2.7b": (32, 32, 2560, 2048),
        "gpt3-6.7b": (32, 32, 4096, 2048),
        "gpt3-13b": (40, 40, 5120, 2048),
        "gpt3-175b": (96, 96, 12288, 2048),
    }.items()
}

PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "modern": {
        "positions": "rotary",
        "qk_norm": True,
        "activation": "relu2",
        "bias": False,
        "tied": False,
        "zero_init": True,
    },
}
"""Fields that each preset sets; the others keep the defaults of `GPTConfig`."""


def gpt_config(size: str, preset: str = "gpt2", **overrides: Any) -> GPTConfig:
    """Resolve a size, a preset and overrides into one complete architecture.

    Overrides take precedence over the preset, and the preset over the defaults of `GPTConfig`.

    >>> gpt_config("gpt2").width
    768

    Args:
        size: a key of `SIZES`, which sets layers, heads, width and context.
        preset: a key of `PRESETS`, which sets the other fields.
        overrides: any fields of `GPTConfig`.

    Raises:
        ValueError: the size or the preset is unknown, or the resolved values are invalid.
    """
    for name, table in ((size, SIZES), (preset, PRESETS)):
        if name not in table:
            raise ValueError(f"no size or preset is called {name!r}: choose one of {', '.join(table)}")
    return GPTConfig(**{**SIZES[size], **PRESETS[preset], **overrides})
