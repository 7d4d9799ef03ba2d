"""A run's report: everything on one page, safe whatever the texts say, and asking no host for anything."""

from __future__ import annotations

import pydoc_data.topics
import re
import sqlite3
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.tracking.entities import columns
from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.report import report
from pipelines.report.figures import kinds, tokens, training
from pipelines.report.report import REPORT, ReportConfig
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import Manifest
from pipelines.store.step import Listener, StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER
from pipelines.training.pretrain import PRETRAIN

BAD = "<script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)>"
TRAINING: dict[str, Any] = {"steps": 2, "batch_size": 4, "threads": 1, "evaluate_every": 1}


class Strict(Listener):
    def warn(self, sentence: str) -> None:
        raise AssertionError(sentence)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """A chain of everything, with texts that would do harm in a page, and its curves in MLflow's database."""
    home = tmp_path_factory.mktemp("report")
    store, texts = Store(home / "data"), home / "texts"
    texts.mkdir()
    topics = sorted(pydoc_data.topics.topics.items())[:24]
    for number, (_, text) in enumerate(topics):
        (texts / f"{number:02}.txt").write_text(f"{BAD}\n{text[:900]}")
    (texts / "twin.txt").write_text((texts / "00.txt").read_text())
    rows = [f"{'<b>code' if i % 3 else 'prose'}\t{BAD} {text[20:70].split()}" for i, (_, text) in enumerate(topics * 2)]
    (home / "labels.tsv").write_text("label\ttext\n" + "\n".join(f"{row} {i}" for i, row in enumerate(rows)) + "\n")

    def build(step_type: StepType, config: dict[str, Any], **inputs: Dataset) -> Dataset:
        step = step_type.using("tiny", step_type.config(**config), inputs)
        run: Callable[..., Any] = lambda out, scratch: step_type.run(inputs, step.config, out, StepContext(scratch))  # noqa: E731
        return store.build(step, run, built_by={"mlflow_run_id": f"r-{step_type.name}"})

    record(home, "r-pretrain")
    split = {"validation": 0.2, "test": 0.2}
    corpus = build(INGEST, {"sources": [{"uri": str(texts)}], "split": split})
    tokens = build(TOKENIZE, {"encoding": "bpe", "vocabulary": 300}, corpus=corpus)
    samples = build(SAMPLE, {"context": 32, "stride": 64}, tokens=tokens)
    base = build(PRETRAIN, TRAINING | {"model": {"size": "pico"}}, samples=samples, tokens=tokens)
    language = build(
        EVALUATE_LANGUAGE,
        {"prompts": ["<b>"], "memorisation": {"prefix_tokens": 8}},
        model=base,
        tokens=tokens,
        corpus=corpus,
    )
    examples = build(EXAMPLES, {"sources": [{"uri": str(home / "labels.tsv"), "label": "label"}], "split": split})
    lessons = build(TOKENIZE_EXAMPLES, {}, model=base, examples=examples)
    classifier = build(FINETUNE_CLASSIFIER, TRAINING, model=base, examples=examples, lessons=lessons)
    judged = build(EVALUATE_CLASSIFIER, {}, model=classifier, examples=examples)
    every = (corpus, tokens, samples, base, language, examples, lessons, classifier, judged)
    return {each.manifest.step: each for each in every}


def record(home: Path, run_id: str) -> None:
    """A run as MLflow keeps it, with a curve and a text."""
    artifacts = home / "mlruns" / "artifacts"
    (artifacts / "samples").mkdir(parents=True)
    (artifacts / "samples" / "step-000002.txt").write_text(f"And it wrote {BAD}")
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.execute("CREATE TABLE metrics (run_uuid, key, step, value, is_nan)")
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES (?, ?)", (run_id, artifacts.as_uri()))
        for step in range(20):
            for key in ("train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"):
                database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, 0)", (run_id, key, step, 5 - step / 10))
        database.execute("INSERT INTO metrics VALUES (?, 'val/loss', 10, 4.5, 0)", (run_id,))


@pytest.fixture(scope="module")
def page(made: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out")
    statistics = REPORT.run(made, ReportConfig(), out, StepContext(out, Strict()))
    written = (out / "report.html").read_text()
    assert statistics["bytes"] == len(written.encode()) and statistics["figures"] == written.count("<svg")
    return written


class Page(HTMLParser):
    """The tags of a page, its text, and everything that a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.headings: list[str] = []
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open = tag
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href") and not (value or "").startswith("#"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, text: str) -> None:
        if self.open in ("h2", "h3") and text.strip():
            self.headings.append(text.strip())


def test_the_page_has_all_that_there_is_to_see(page: str) -> None:
    headings = Page(page).headings
    for expected in (
        "The chain", "Text by source", "Length of documents", "Left out, by reason", "Some of what was left out",
        "Frequency against rank", "Tokens per byte, by source", "Coverage of the vocabulary",
        "Loss", "Learning rate", "Gradient norm", "Throughput", "What it wrote as training went on",
        "Token embeddings in two dimensions", "How it reads", "Bits per byte, beside baselines", "What it writes",
        "Examples by label", "Confusion matrix", "Bits per byte, by source", "What it knows by heart",
    ):  # fmt: skip
        assert expected in headings, expected
    assert "exact duplicate" in page and "r-finetune" not in page


def test_no_text_becomes_markup_and_no_host_is_asked(page: str) -> None:
    parsed = Page(page)
    assert not parsed.tags & {"script", "img", "iframe", "link", "object", "embed", "form"}
    assert parsed.fetched == [] and parsed.handlers == []
    assert "default-src 'none'" in page and "&lt;script&gt;" in page
    assert not re.search(r"url\(|@import", page)


def test_every_figure_is_well_formed_and_has_a_name(page: str) -> None:
    for svg in re.findall("<svg.*?</svg>", page, re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label")


def test_token_probabilities_are_the_models(made: dict[str, Dataset]) -> None:
    import torch

    from pipelines.models.language_model import open_gpt

    config = ReportConfig(sentence="The statement")
    (part,) = report.reading_parts(made["pretrain"], made["tokenize"], config)
    model = open_gpt(made["pretrain"].path)
    ids = model.encode("The statement")
    assert "".join(token.text for token in part.tokens) == "The statement"
    with torch.inference_mode():
        logits = model.gpt(torch.tensor([[model.tokenizer.end_of_text, *ids[:-1]]]))[0].softmax(-1)
    expected = [f"{float(logits[i, token]):.2%}" for i, token in enumerate(ids)]
    assert [row[1] for row in part.rows] == expected


def test_nearest_neighbours_are_nearest_by_cosine(made: dict[str, Dataset]) -> None:
    import numpy as np

    from pipelines.models.language_model import open_gpt
    from pipelines.tokens.shards import Tokens

    (part,) = training.embedding_parts(made["pretrain"], made["tokenize"])
    model = open_gpt(made["pretrain"].path)
    used = np.flatnonzero(tokens.token_counts(Tokens(made["tokenize"])))
    vectors = model.gpt.tokens.weight.detach().numpy()[used]
    vectors = vectors - vectors.mean(axis=0)
    texts = [repr(model.tokenizer.decode_bytes([int(i)]).decode("utf-8", "replace")) for i in used]
    token, neighbours = part.rows[0]
    at = texts.index(token)
    cosine = vectors @ vectors[at] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[at])
    cosine[at] = -2
    assert neighbours.startswith(f"{texts[int(cosine.argmax())]} {cosine.max():.2f}")


def test_token_counts_are_those_of_the_text(made: dict[str, Dataset]) -> None:
    from pipelines.tokens.shards import Tokens

    tokens = Tokens(made["tokenize"])
    counts = tokens.token_counts(tokens)
    assert counts.sum() == made["tokenize"].manifest.statistics["tokens"]
    assert counts[tokens.tokenizer.end_of_text] == made["ingest"].manifest.statistics["documents"]


def test_curves_of_classifiers_are_drawn_where_an_evaluation_has_them(made: dict[str, Dataset], tmp_path: Path) -> None:
    judged = made["evaluate-classifier"]
    folder = tmp_path / "evaluation" / "x"
    folder.mkdir(parents=True)
    for name in judged.manifest.files:
        (folder / name).write_bytes((judged.path / name).read_bytes())
    curves = {
        "system": ["model"] * 4,
        "label": ["spam"] * 2 + [None] * 2,
        "curve": ["roc"] * 2 + ["calibration"] * 2,
        "x": [0.0, 1] * 2,
        "y": [0.0, 1] * 2,
    }
    pq.write_table(pa.table(curves), folder / "curves.parquet")
    files = judged.manifest.files | {"curves.parquet": next(iter(judged.manifest.files.values()))}
    manifest = Manifest.model_validate(judged.manifest.model_dump() | {"files": files})
    titles = [part.title for part in kinds.parts(Dataset(folder, manifest), {}, Strict().warn)]
    assert {"ROC", "Calibration", "Confusion matrix"} <= set(titles)


def test_what_cannot_be_drawn_is_told_and_the_rest_is_there(made: dict[str, Dataset], tmp_path: Path) -> None:
    class Heard(Listener):
        sentences: list[str] = []  # noqa: RUF012

        def warn(self, sentence: str) -> None:
            self.sentences.append(sentence)

    gone = Dataset(tmp_path / "corpus" / "gone", made["ingest"].manifest)
    html, _ = report.to_html([gone, made["pretrain"]], ReportConfig(), StepContext(tmp_path, Heard()))
    assert len(Heard.sentences) == 1 and "could be drawn" in Heard.sentences[0]
    assert "Gradient norm" in html


@pytest.mark.parametrize(
    "step, column",
    [
        ("ingest", ("text", "string")),
        ("tokenize", ("n_tokens", "long")),
        ("sample", ("start", "long")),
        ("examples", ("label", "string")),
    ],
)
def test_the_columns_of_each_kind_of_dataset(made: dict[str, Dataset], step: str, column: tuple[str, str]) -> None:
    assert column in columns(made[step])


def test_the_columns_of_a_model_are_its_tensors(made: dict[str, Dataset]) -> None:
    found = columns(made["pretrain"])
    assert len(found) > 5 and all(kind.startswith("F32 [") for _, kind in found)
