"""Memorisation: recited text, and the places that are tried."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.memorisation import MemorisationConfig, _places, memorisation_metrics, recite
from pipelines.models.language_model import open_gpt
from pipelines.tokens.shards import Tokens

shards = st.lists(st.tuples(st.sampled_from(["train", "test"]), st.lists(st.integers(1, 40), max_size=8)), max_size=5)


@given(shards=shards, width=st.integers(1, 20), most=st.integers(1, 30))
def test_places_are_even_among_all_windows_within_documents(
    shards: list[tuple[str, list[int]]], width: int, most: int
) -> None:
    tokens: Any = SimpleNamespace(
        shards_of=lambda split: [shard for shard, each in enumerate(shards) if each[0] == split],
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
    assert _places(tokens, "train", width, most) == every


def test_only_memorised_text_is_recited(published):
    model, tokens = open_gpt(published.model.path), Tokens(published.tokens)
    config = MemorisationConfig(prefixes=10**6, prefix_tokens=16, run_tokens=16, at_least=16)
    trained, held_out = (recite(model.gpt, tokens, split, config) for split in ("train", "test"))
    assert trained[0]["run"] == 16 and trained[0]["written"] == trained[0]["text"]
    runs = [each["run"] for each in held_out]
    assert np.mean(runs) < 16
    few = recite(model.gpt, tokens, "train", config.model_copy(update={"prefixes": 3}))
    assert len(few) == 3 and few[0]["run"] == 16 and len({each["doc_id"] for each in few}) == 3
    metrics = memorisation_metrics([16], runs, 16)
    assert metrics["memorised_share"].value == 1 and metrics["memorised_run"].value == 16
    mean = np.mean(runs)
    assert metrics["memorised_run_held_out"].value == pytest.approx(mean)
    assert metrics.get("memorised_ratio", 0) == pytest.approx(16 / mean if mean else 0)
