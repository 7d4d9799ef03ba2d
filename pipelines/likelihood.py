"""How likely a model finds a text after another: what multiple choice, and lm-eval, are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpt.batch import pad
from gpt.machine import linear
from pipelines.model import LanguageModel


@torch.inference_mode()
def log_likelihoods(
    model: LanguageModel, pairs: Sequence[tuple[str, str]], batch_size: int = 32
) -> list[tuple[float, bool]]:
    """For each (context, continuation): the continuation's log-probability in nats, and whether it is the likeliest.

    The two are encoded apart, white space at the end of a context going with the continuation. What is longer than
    the model's context loses its beginning; an empty context is the end of text, as before a document.
    """
    texts = [_encoded(model, *pair) for pair in pairs]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
    found: list[tuple[float, bool]] = [(0.0, True)] * len(texts)
    where = next(model.gpt.parameters()).device
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        inputs = pad([texts[i][0][:-1] for i in rows], [0] * len(rows)).inputs.to(where)
        hidden = model.gpt.hidden(inputs)  # (B, T, C)
        for row, i in enumerate(rows):
            ids, n = texts[i]
            end = len(ids) - 1
            logits = linear(hidden[row, end - n : end], model.gpt.head_weight).float()  # (n, V)
            targets = torch.tensor(ids[-n:] if n else [], dtype=torch.long, device=where)
            chosen = logits.log_softmax(-1).gather(1, targets[:, None])
            found[i] = float(chosen.double().sum()), bool((logits.argmax(-1) == targets).all())
    return found


def _encoded(model: LanguageModel, context: str, continuation: str) -> tuple[list[int], int]:
    """The ids of both, as many as the model can read, and how many of them are the continuation's."""
    kept = context.rstrip()
    after = model.tokenizer.encode(context[len(kept) :] + continuation).tolist()
    before = model.encode(kept)
    most = model.gpt.config.context
    return [*before, *after][-most - 1 :], min(len(after), most)
