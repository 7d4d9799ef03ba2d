"""Scores of texts: the loss of every token, and the likelihood of continuations."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from gpt.batch import pad
from gpt.machine import linear
from gpt.model import GPT
from pipelines.models.language_model import LanguageModel
from pipelines.store.step import StepContext


@torch.inference_mode()
def sliding_losses(model: GPT, streams: Sequence[NDArray], work: StepContext | None = None) -> NDArray:
    """Return the loss of every token except each stream's first, (N,) in nats, in order.

    Windows of the context's length move by half of it. A token is scored by the first window that contains it, so it
    has at least half a context before it, except at the start of a stream.
    """
    context = model.config.context
    stride = max(1, context // 2)
    batch = max(1, min(32, 2**26 // (context * model.config.vocabulary)))  # logits of at most 256 MB
    device = next(model.parameters()).device
    losses: list[NDArray] = []
    done, total = 0, sum(max(len(stream) - 1, 0) for stream in streams)
    for stream in streams:
        n = len(stream) - 1
        starts = list(range(0, max(n - context, 0) + stride, stride)) if n > 0 else []
        scored = np.zeros(max(n, 0))
        for at in range(0, len(starts), batch):
            windows = starts[at : at + batch]
            rows = [torch.from_numpy(stream[s : s + context + 1].astype(np.int64)) for s in windows]
            width = max(len(row) for row in rows)
            ids = torch.stack([F.pad(row, (0, width - len(row))) for row in rows]).to(device)  # (B, T + 1)
            logits = model(ids[:, :-1]).float()  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(rows), -1)
            for start, row, values in zip(windows, rows, loss.cpu().numpy(), strict=True):
                first = 0 if start == 0 else context - stride
                last = len(row) - 1
                scored[start + first : start + last] = values[first:last]
            if work:
                work.listener.progress(done + min(windows[-1] + context, n), total, "tokens")
        done += max(n, 0)
        losses.append(scored)
    return np.concatenate(losses)


@torch.inference_mode()
def log_likelihoods(
    model: LanguageModel, pairs: Sequence[tuple[str, str]], batch_size: int = 32
) -> list[tuple[float, bool]]:
    """Return each continuation's log-probability in nats, and whether greedy decoding gives it.

    Context and continuation are encoded separately, and white space between them belongs to the continuation. A text
    that is longer than the model's context loses its beginning. An empty context is the end of text, as before a
    document.

    Args:
        model: the model.
        pairs: (context, continuation) each.
        batch_size: texts that the model reads at once.
    """
    texts = [_encoded(model, *pair) for pair in pairs]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
    found: list[tuple[float, bool]] = [(0.0, True)] * len(texts)
    device = next(model.gpt.parameters()).device
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        inputs = pad([texts[i][0][:-1] for i in rows], [0] * len(rows)).inputs.to(device)
        hidden = model.gpt.hidden(inputs)  # (B, T, C)
        for row, i in enumerate(rows):
            ids, n = texts[i]
            end = len(ids) - 1
            logits = linear(hidden[row, end - n : end], model.gpt.head_weight).float()  # (n, V)
            targets = torch.tensor(ids[-n:] if n else [], dtype=torch.long, device=device)
            chosen = logits.log_softmax(-1).gather(1, targets[:, None])
            found[i] = float(chosen.double().sum()), bool((logits.argmax(-1) == targets).all())
    return found


def _encoded(model: LanguageModel, context: str, continuation: str) -> tuple[list[int], int]:
    """Return the ids of both, as many as the model can read, and the number of the continuation's among them."""
    kept = context.rstrip()
    after = model.tokenizer.encode(context[len(kept) :] + continuation).tolist()
    before = model.encode(kept)
    most = model.gpt.config.context
    return [*before, *after][-most - 1 :], min(len(after), most)
