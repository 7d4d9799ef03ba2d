"""Figures about tokens."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.report.figures.tokens import token_counts, tokens_parts
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens


def test_token_counts_are_those_of_the_text(made: Callable[[str], Dataset]) -> None:
    tokens = Tokens(made("tokenize"))
    counts = token_counts(tokens)
    assert counts.sum() == made("tokenize").manifest.statistics["tokens"]
    assert counts[tokens.tokenizer.end_of_text] == made("ingest").manifest.statistics["documents"]


def test_tokens_by_source_need_the_corpus(made: Callable[[str], Dataset]) -> None:
    without = [part.title for part in tokens_parts(made("tokenize"), {})]
    every = [part.title for part in tokens_parts(made("tokenize"), {"corpus": made("ingest")})]
    assert every == [*without, "Tokens per byte, by source"]
