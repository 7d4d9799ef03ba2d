"""The places at which memorisation is looked for are those of a list of all windows, which nobody has to hold."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.memorisation import _places

shards = st.lists(st.tuples(st.sampled_from(["train", "test"]), st.lists(st.integers(1, 40), max_size=8)), max_size=5)


@given(shards=shards, width=st.integers(1, 20), most=st.integers(1, 30))
def test_places_lie_evenly_among_all_windows_within_documents(
    shards: list[tuple[str, list[int]]], width: int, most: int
) -> None:
    tokens: Any = SimpleNamespace(
        shards=shards,
        split=lambda shard: shards[shard][0],
        offsets=lambda shard: np.cumsum([0, *shards[shard][1]]),
    )
    every = [
        (shard, document, start)
        for shard, (split, _) in enumerate(shards)
        if split == "train"
        for document, (first, end) in enumerate(pairwise(tokens.offsets(shard).tolist()))
        for start in range(first, end - width, width)
    ]
    if len(every) > most:
        every = [every[i] for i in np.linspace(0, len(every) - 1, most).astype(int)]
    assert list(_places(tokens, "train", width, most)) == every
