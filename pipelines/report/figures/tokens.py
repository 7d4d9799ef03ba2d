"""Figures about tokens."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.corpus.documents import Corpus
from pipelines.report import charts
from pipelines.report.charts import Axis, Series
from pipelines.report.figures.part import Part, query_tables
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens


def tokens_parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    """Yield the parts about tokens: frequencies, coverage and, with their corpus, tokens per byte."""
    tokens = Tokens(dataset)
    counts = token_counts(tokens)
    names = [repr(token.decode("utf-8", "replace")) for token in tokens.tokenizer.token_bytes]
    order = np.argsort(-counts, kind="stable")
    used = int((counts > 0).sum())
    if not used:
        return
    ranks = sorted({round(10 ** (e / 40)) for e in range(int(40 * math.log10(used)) + 1)} | {used})
    n = [int(counts[order[rank - 1]]) for rank in ranks]
    titles = [f"{names[order[r - 1]]}, rank {r:,}: {c:,} times" for r, c in zip(ranks, n, strict=True)]
    series = [
        Series("tokens", ranks, n, titles=titles),
        Series("one over the rank", [1, used], [n[0], n[0] / used], "dashed"),
    ]
    frequent = [(rank + 1, names[i], int(counts[i])) for rank, i in enumerate(order[:50]) if counts[i]]
    yield Part(
        "Frequency against rank",
        "Zipf's law is a straight line; the most frequent tokens are in the table.",
        charts.lines(series, Axis("rank", log=True), Axis("times", log=True, low=max(min(n) * 0.7, 0.7))),
        ("rank", "token", "times"),
        frequent,
    )
    covered = np.cumsum(counts[order]) / counts.sum()
    yield Part(
        "Coverage of the vocabulary",
        f"{used:,} of {len(counts):,} tokens occur; share of the text that the most frequent ones make up.",
        charts.lines(
            [Series("covered", ranks, [float(covered[r - 1]) for r in ranks])],
            Axis("most frequent tokens", log=True),
            Axis("share of the text", low=0, high=1.08),
        ),
        ("most frequent tokens", "share of the text"),
        [(r, f"{covered[r - 1]:.1%}") for r in (1, 10, 100, 1000, 10_000, 100_000) if r <= used],
    )
    if corpus := inputs.get("corpus"):
        rows = _tokens_by_source(tokens, corpus)
        bars = [(source, n / b, f"{n / b:.3f}") for source, n, b in rows[:15]]
        yield Part(
            "Tokens per byte, by source",
            "The more tokens a source takes for its text, the less the vocabulary suits it.",
            charts.bars(bars, "tokens per byte by source"),
            ("source", "tokens", "bytes", "tokens per byte", "bytes per token"),
            [(source, n, b, round(n / b, 4), round(b / n, 3)) for source, n, b in rows],
        )


def token_counts(tokens: Tokens) -> NDArray[np.int64]:
    """Count the tokens with each id, (V,)."""
    counts = np.zeros(tokens.tokenizer.vocabulary, np.int64)
    for shard in range(len(tokens.shards)):
        flat = tokens.known(tokens.flat(shard))
        for at in range(0, len(flat), 1 << 24):  # bincount widens its input
            counts += np.bincount(flat[at : at + (1 << 24)], minlength=len(counts))
    return counts


def _tokens_by_source(tokens: Tokens, corpus: Dataset) -> list[tuple[Any, ...]]:
    lengths = pa.Table.from_batches([batch.select(["doc_id", "n_tokens"]) for batch in tokens.shards])
    with query_tables(documents=Corpus(corpus).parts, lengths=lengths) as ask:
        return ask(
            "SELECT source, sum(n_tokens)::BIGINT, sum(n_bytes)::BIGINT FROM documents JOIN lengths USING (doc_id) "
            "GROUP BY ALL HAVING sum(n_bytes) > 0 ORDER BY sum(n_tokens) / sum(n_bytes) DESC"
        )
