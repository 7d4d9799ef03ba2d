"""A language model's evaluation as a step: every document kept, by source and language; memorisation found."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gpt.config import Config, gpt_config
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE, doc_ids
from pipelines.evaluation.memorisation import MemorisationConfig, memorisation_metrics, recite
from pipelines.models.language_model import open_gpt
from pipelines.store.step import StepType
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE


@pytest.fixture
def data(build, tmp_path):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(60)]
    german = "Der Löwe schläft heute Nacht, und niemand weiß, warum das so ist; Nummer"
    texts = {
        "random": [" ".join(rng.choice(words, 20)) for _ in range(30)],
        "löwe": [f"{german} {i}. Wir wissen nur, dass die Nacht lang ist und der Morgen fern." for i in range(20)],
    }
    for name, rows in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    sources = [{"uri": str(tmp_path / f"{name}.jsonl"), "name": name} for name in texts]
    corpus = build(
        INGEST,
        {"sources": sources, "split": {"validation": 0.2, "test": 0.3}, "language": True, "near_duplicates": None},
    )
    return corpus, build(TOKENIZE, {"encoding": "characters"}, corpus=corpus)


def write_model(inputs, config, out, work):
    """A model that has learnt one training document by heart."""
    tokens = Tokens(inputs["tokens"])
    torch.manual_seed(0)
    size = gpt_config("pico", vocabulary=tokens.tokenizer.vocabulary, context=64)
    model = GPT(size)
    ids = torch.from_numpy(tokens.streams("train")[0][:65].astype(np.int64))[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[0, 1:])
        loss.backward()
        optimizer.step()
        model.zero_grad()
    save_model(model, out)
    tokens.tokenizer.save(out)
    return {}


MODEL = StepType("model", kind="model", version=1, config=Config, run=write_model)


def test_every_document_is_kept_and_sources_and_languages_have_metrics_of_their_own(build, data):
    corpus, tokens = data
    model = build(MODEL, {}, tokens=tokens)
    memorisation = {"prefixes": 8, "prefix_tokens": 16, "run_tokens": 16, "at_least": 12}
    made = build(EVALUATE_LANGUAGE, {"memorisation": memorisation}, model=model, tokens=tokens, corpus=corpus)
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


def test_what_was_learnt_by_heart_is_recited_and_what_was_not_is_not(build, data):
    _, tokens = data
    model = open_gpt(build(MODEL, {}, tokens=tokens).path)
    config = MemorisationConfig(prefixes=10**6, prefix_tokens=16, run_tokens=16, at_least=16)
    trained, held_out = (recite(model.gpt, Tokens(tokens), split, config) for split in ("train", "test"))
    assert trained[0].run == 16 and trained[0].written == trained[0].text.tolist()
    assert np.mean([each.run for each in held_out]) < 16
    few = recite(model.gpt, Tokens(tokens), "train", config.model_copy(update={"prefixes": 3}))
    assert len(few) == 3 and few[0].run == 16 and len({each.doc_id for each in few}) == 3
    metrics = memorisation_metrics(trained[:1], held_out, 16)
    assert metrics["memorised_share"].value == 1 and metrics["memorised_run"].value == 16
    mean = np.mean([each.run for each in held_out])
    assert metrics["memorised_run_held_out"].value == pytest.approx(mean)
    assert metrics.get("memorised_ratio", 0) == pytest.approx(16 / mean if mean else 0)


def test_documents_too_short_for_a_run_are_told_of(build, warnings, data):
    _, tokens = data
    model = build(MODEL, {}, tokens=tokens)
    config = {"memorisation": {"run_tokens": 1000}, "baselines": False}
    made = build(EVALUATE_LANGUAGE, config, model=model, tokens=tokens)
    assert any("memorisation was not looked for: no document" in each for each in warnings.sentences)
    assert not any("memorised" in name for name in made.manifest.statistics)
