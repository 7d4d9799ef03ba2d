"""Which parameters of a GPT learn: all, the last few blocks, or a low-rank change of every linear layer."""

from torch import nn

from gpt.lora import add_lora
from gpt.model import GPT


def choose_trainable(model: GPT, what: str, rank: int = 8, alpha: float = 16.0, embeddings: bool = False) -> None:
    """Freeze all parameters but some.

    what: `all`; `last:N` for the last N blocks and the last norm; `lora` for a change of each linear layer of low
        `rank`, times `alpha / rank` (see `gpt.lora`).
    embeddings: those and the head learn too, as they must where token ids are new.
    Raises ValueError for anything else, and for more blocks than there are.
    """
    blocks = model.blocks
    kind, _, number = what.partition(":")
    if what == "lora":
        add_lora(model, rank, alpha)
        parts: list[nn.Module | None] = []
    elif what == "all":
        parts = [model]
    elif kind == "last" and number.isdecimal() and 1 <= int(number) <= len(blocks):
        parts = [model.norm, *blocks[-int(number) :]]
        model.requires_grad_(False)
    else:
        raise ValueError(f"cannot train {what!r}: choose all, lora, or last:N with N from 1 to {len(blocks)}")
    for part in [*parts, *([model.tokens, model.head] if embeddings else [])]:
        if part is not None:
            part.requires_grad_(True)
