"""Embeddings of texts: the mean of a model's last hidden states."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gpt.batch import Ids, mean_of_rows, pad
from gpt.model import GPT


def as_list(texts: str | Sequence[str]) -> Sequence[str]:
    """Return several texts as they are, and a single one as a list of one."""
    return [texts] if isinstance(texts, str) else texts


@torch.inference_mode()
def embed(model: GPT, sequences: Sequence[Ids], batch_size: int = 64) -> NDArray[np.float32]:
    """Return the mean of the hidden states after the last norm for each sequence, (N, C).

    Args:
        model: the model.
        sequences: ids of each text, at least one. They are cut to the context.
        batch_size: sequences that the model reads at once. Those of similar length share a batch.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    means = np.zeros((len(sequences), model.config.width), np.float32)
    device = next(model.parameters()).device
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        batch = pad([sequences[i][: model.config.context] for i in rows], [0] * len(rows)).to(device)
        assert batch.lengths is not None
        means[rows] = mean_of_rows(model.hidden(batch.inputs).float(), batch.lengths).cpu().numpy()
    return means
