"""Windows that stay within documents: every token once, no document sees another, little room wasted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.batch import IGNORE, Batch
from gpt.config import gpt_config
from gpt.loss import next_token_loss
from gpt.model import GPT
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset
from pipelines.tokens.packing import best_fit
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training.loader import Loader

Build = Callable[..., Dataset]
CONTEXT = 16


@pytest.fixture
def tokens(build: Build, tmp_path: Path) -> Dataset:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdef ", k=rng.choice([1, 3, 8, 14, 15, 16, 17, 40]))) + str(i) for i in range(80)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": {"validation": 0.2, "test": 0}})
    return build(TOKENIZE, {"encoding": "characters", "shard_tokens": 400}, corpus=corpus)


def documents_of(tokens: Dataset, split: str) -> list[list[int]]:
    shards = [batch for batch in Tokens(tokens).shards if batch["split"][0].as_py() == split]
    return [row for batch in shards for row in batch["tokens"].to_pylist()]


def pieces_of(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Inputs, targets and positions of every piece in a batch."""
    assert batch.documents is not None and batch.positions is not None
    found = []
    for row in range(len(batch.inputs)):
        for number in range(int(batch.documents[row].max()) + 1):
            here = batch.documents[row] == number
            found.append(tuple(tensor[row][here].tolist() for tensor in (batch.inputs, batch.targets, batch.positions)))
    return found  # type: ignore[return-value]


def test_every_token_but_a_documents_first_is_a_target_once(build: Build, tokens: Dataset) -> None:
    samples = build(SAMPLE, {"context": CONTEXT, "boundaries": "document"}, tokens=tokens)
    for split in ("train", "validation"):
        loader = Loader(Samples(samples), Tokens(tokens), split, batch_size=1)
        pieces = [piece for step in range(len(loader)) for piece in pieces_of(loader(step))]
        expected = [
            (document[at : at + CONTEXT][: len(document) - 1 - at], document[at + 1 : at + 1 + CONTEXT])
            for document in documents_of(tokens, split)
            for at in range(0, len(document) - 1, CONTEXT)
        ]
        assert sorted((inputs, targets) for inputs, targets, _ in pieces) == sorted(expected)
        assert all(positions == list(range(len(positions))) for _, _, positions in pieces)
    assert samples.manifest.statistics["cropped_share"] == 0


def test_padding_counts_nowhere_and_its_share_is_reported(build: Build, tokens: Dataset) -> None:
    samples = build(SAMPLE, {"context": CONTEXT, "boundaries": "document"}, tokens=tokens)
    padded = total = 0
    for split in ("train", "validation"):
        loader = Loader(Samples(samples), Tokens(tokens), split, batch_size=1, shuffle=False)
        for step in range(len(loader)):
            batch = loader(step)
            assert batch.documents is not None
            assert torch.equal(batch.targets == IGNORE, batch.documents == -1)
            padded += int((batch.documents == -1).sum())
            total += batch.inputs.numel()
    assert (
        samples.manifest.statistics["padded_share"] == pytest.approx(padded / total, abs=1e-6) and padded < 0.2 * total
    )


def test_a_packed_window_costs_what_its_documents_cost_each_alone(build: Build, tokens: Dataset) -> None:
    samples = build(SAMPLE, {"context": CONTEXT, "boundaries": "document"}, tokens=tokens)
    loader = Loader(Samples(samples), Tokens(tokens), "train", batch_size=6)
    torch.manual_seed(0)
    vocabulary = Tokens(tokens).tokenizer.vocabulary
    model = GPT(gpt_config("gpt2", vocabulary=vocabulary, context=CONTEXT, layers=2, heads=2, width=16)).eval()
    batch = loader(0)
    together, n = next_token_loss(model, batch)
    alone = [
        next_token_loss(model, Batch(torch.tensor([inputs]), torch.tensor([targets])))
        for inputs, targets, _ in pieces_of(batch)
    ]
    assert int(n) == sum(int(count) for _, count in alone)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)


@given(st.lists(st.integers(1, 20), max_size=80), st.integers(20, 30))
def test_best_fit_packs_everything_once_and_nearly_as_tight_as_can_be(lengths: list[int], capacity: int) -> None:
    windows = best_fit(lengths, capacity)
    assert sorted(piece for window in windows for piece in window) == list(range(len(lengths)))
    assert all(sum(lengths[piece] for piece in window) <= capacity for window in windows)
    assert len(windows) <= 11 / 9 * sum(lengths) / capacity + 11 / 9 * sum(n > capacity / 2 for n in lengths) + 4


def test_best_fit_fills_the_tightest_window() -> None:
    windows = best_fit([6, 5, 4, 5], 10)
    assert sorted(map(sorted, windows)) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("boundaries", ["stream", "document"])
@pytest.mark.parametrize("stride", [3, CONTEXT, CONTEXT + 1, CONTEXT + 7])
def test_the_share_of_tokens_in_no_window_is_reported(
    build: Build, tokens: Dataset, stride: int, boundaries: str
) -> None:
    strides = {"stride": stride, "held_out_stride": stride}
    samples = build(SAMPLE, {"context": CONTEXT, "boundaries": boundaries, **strides}, tokens=tokens)
    left = total = 0
    for shard in range(len(Tokens(tokens).shards)):
        seen = np.zeros(len(Tokens(tokens).flat(shard)), bool)
        for split in ("train", "validation"):
            for number, batch in Samples(samples).batches_of(split):
                for row in batch.to_pylist() if number == shard else []:
                    pieces = zip(row.get("starts", [row["start"]]), row.get("lengths", [CONTEXT]), strict=True)
                    for start, length in pieces:
                        seen[start : start + length + 1] = True
        left, total = left + int((~seen).sum()), total + len(seen)
    assert samples.manifest.statistics["cropped_share"] == pytest.approx(left / total, abs=1e-6)
