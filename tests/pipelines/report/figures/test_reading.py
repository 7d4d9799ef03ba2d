"""A text that a model reads token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipelines.models.language_model import open_gpt
from pipelines.report.figures.reading import reading_parts
from pipelines.store.dataset import Dataset


def test_token_probabilities_equal_the_models(made: Callable[[str], Dataset]) -> None:
    (part,) = reading_parts(made("pretrain"), made("tokenize"), "The statement")
    model = open_gpt(made("pretrain").path)
    ids = model.encode("The statement")
    assert "".join(token.text for token in part.tokens) == "The statement"
    with torch.inference_mode():
        logits = model.gpt(torch.tensor([[model.tokenizer.end_of_text, *ids[:-1]]]))[0].softmax(-1)
    expected = [f"{float(logits[i, token]):.2%}" for i, token in enumerate(ids)]
    assert [row[1] for row in part.rows] == expected


def test_text_comes_from_a_held_out_document(made: Callable[[str], Dataset]) -> None:
    (part,) = reading_parts(made("pretrain"), made("tokenize"), None)
    assert "of the test split" in part.note and 8 < len(part.tokens) == len(part.rows) < 32
    assert not list(reading_parts(made("pretrain"), None, None))
