"""Figures about models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.models.language_model import open_gpt
from pipelines.report.figures.tokens import token_counts
from pipelines.report.figures.training import embedding_parts, training_parts
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens


def test_nearest_neighbours_are_nearest_by_cosine(made: Callable[[str], Dataset]) -> None:
    (part,) = embedding_parts(made("pretrain"), made("tokenize"))
    model = open_gpt(made("pretrain").path)
    used = np.flatnonzero(token_counts(Tokens(made("tokenize"))))
    vectors = model.gpt.tokens.weight.detach().numpy()[used]
    vectors = vectors - vectors.mean(axis=0)
    texts = [repr(model.tokenizer.decode_bytes([int(i)]).decode("utf-8", "replace")) for i in used]
    token, neighbours = part.rows[0]
    at = texts.index(token)
    cosine = vectors @ vectors[at] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[at])
    cosine[at] = -2
    assert neighbours.startswith(f"{texts[int(cosine.argmax())]} {cosine.max():.2f}")


def test_curves_and_texts_come_from_mlflow(made: Callable[[str], Dataset]) -> None:
    parts = {part.title: part for part in training_parts(made("pretrain"))}
    assert parts["Loss"].rows == [("train/loss", 20, 19, "3.1", "3.1"), ("val/loss", 1, 10, "4.5", "4.5")]
    ((title, text),) = parts["Text written during training"].texts
    assert title == "after step 2" and text.startswith("And it wrote")
