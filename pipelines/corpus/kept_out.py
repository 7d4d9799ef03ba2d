"""The half of the validation split that chooses nothing in a training, so that the promotion gate can decide on it.

The other half chooses: it says which weights are the best, when a training ends, and where a threshold is.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.corpus.documents import document_id
from pipelines.corpus.examples import Example
from pipelines.store.dataset import Dataset

_SINCE = {"pretrain": 2, "finetune-classifier": 3, "finetune-assistant": 4}
"""The first version of each training that keeps these items out."""


def kept_out(doc_ids: Iterable[str]) -> NDArray[np.bool_]:
    """Return (N,) whether each validation document is kept out.

    A document is always on the same side. The first 13 digits of its id, a hash, decide its split; the next one its
    side.
    """
    return np.array([doc_id[13] >= "8" for doc_id in doc_ids], bool)


def divide(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return the validation examples that choose, and those that are kept out. The opening decides, as for splits."""
    sides: tuple[list[Example], list[Example]] = [], []
    for example, side in zip(examples, kept_out(document_id(each.opening) for each in examples), strict=True):
        sides[int(side)].append(example)
    return sides


def chose_on_all(model: Dataset) -> bool:
    """Return whether a model's training chose on all of the validation split, as those before 0.5.0 did."""
    return model.manifest.step_version < _SINCE.get(model.manifest.step, 0)
