"""Evaluations of language models: scores of documents, sources and languages, and memorisation."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.parquet import read_rows
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE, doc_ids
from pipelines.tokens.shards import Tokens


def test_every_document_source_and_language_is_scored(build, published):
    corpus, tokens = published.corpus, published.tokens
    memorisation = {"prefixes": 8, "prefix_tokens": 16, "run_tokens": 16, "at_least": 12}
    made = build(EVALUATE_LANGUAGE, {"memorisation": memorisation}, model=published.model, tokens=tokens, corpus=corpus)
    statistics, items = made.manifest.statistics, pq.read_table(made.file("predictions.parquet")).to_pylist()
    documents = {
        row["doc_id"]: row
        for part in sorted(corpus.path.glob("documents/*.parquet"))
        for row in read_rows(part)
        if row["split"] == "test"
    }
    assert [item["item"] for item in items] == doc_ids(Tokens(tokens), "test") and len(items) == len(documents) > 8
    for number, item in enumerate(items):
        document = documents[item["item"]]
        assert (item["source"], item["language"]) == (document["source"], document["language"])
        if number:  # the stream's first token is not scored
            assert item["bytes"] == len(document["text"].encode())
            assert item["words"] == len(document["text"].split())
            assert item["tokens"] == len(document["text"]) + 1
    losses, sizes = (np.array([item[name] for item in items]) for name in ("model_loss", "tokens"))
    assert statistics["test/loss"] == pytest.approx(losses.sum() / sizes.sum())
    words = np.array([item["words"] for item in items])
    assert statistics["test/word_perplexity"] == pytest.approx(np.exp(losses.sum() / words.sum()))
    here = np.array([item["source"] == "löwe" for item in items])
    rows = {(row["system"], row["metric"]): row for row in pq.read_table(made.file("metrics.parquet")).to_pylist()}
    value = rows["model", "loss/source/löwe"]["value"]
    assert value == pytest.approx(losses[here].sum() / sizes[here].sum()) == statistics["test/loss/source/löwe"]
    assert rows["model", "bits_per_byte/language/de"]["value"] > 0 and 0 < here.sum() < len(items)
    interval = rows["trigram", "perplexity"]
    assert interval["low"] < interval["value"] < interval["high"]
    tried = pq.read_table(made.file("memorisation.parquet")).to_pylist()
    assert {row["split"] for row in tried} == {"train", "test"} and len(tried) == 16
    for row in tried:
        run = row["run"]
        assert (
            row["written"][:run] == row["text"][:run] and row["written"][: run + 1] != row["text"][: run + 1]
        ) or run == 16
    assert statistics["test/memorised_run"] == pytest.approx(
        np.mean([r["run"] for r in tried if r["split"] == "train"])
    )


def test_documents_too_short_for_a_run_cause_a_warning(build, warnings, published):
    config = {"memorisation": {"run_tokens": 1000}, "baselines": False}
    made = build(EVALUATE_LANGUAGE, config, model=published.model, tokens=published.tokens)
    assert any("memorisation was not looked for: no document" in each for each in warnings.sentences)
    assert not any("memorised" in name for name in made.manifest.statistics)
