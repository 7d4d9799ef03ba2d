"""A run's report: everything on one page, safe for any text, and without a request to any host."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipelines.report import report
from pipelines.report.report import REPORT, ReportConfig
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepContext


@pytest.fixture(scope="module")
def page(chain: dict[str, Dataset], strict: Listener, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out")
    statistics = REPORT.run(chain, ReportConfig(), out, StepContext(out, strict))
    written = (out / "report.html").read_text()
    assert statistics["bytes"] == len(written.encode()) and statistics["figures"] == written.count("<svg")
    return written


def test_page_has_every_figure(page: str, parse: Any) -> None:
    headings = parse(page).headings
    for expected in (
        "The chain", "Text by source", "Length of documents", "Rejected, by reason", "Rejected texts",
        "Frequency against rank", "Tokens per byte, by source", "Coverage of the vocabulary",
        "Loss", "Learning rate", "Gradient norm", "Throughput", "Text written during training",
        "Token embeddings in two dimensions", "How it reads", "Bits per byte, beside baselines", "What it writes",
        "Examples by label", "Confusion matrix", "Bits per byte, by source", "Memorised text",
    ):  # fmt: skip
        assert expected in headings, expected
    assert "exact duplicate" in page and "r-finetune" not in page


def test_no_text_becomes_markup_and_no_host_is_asked(page: str, parse: Any) -> None:
    parsed = parse(page)
    assert not parsed.tags & {"script", "img", "iframe", "link", "object", "embed", "form"}
    assert parsed.fetched == [] and parsed.handlers == []
    assert "default-src 'none'" in page and "&lt;script&gt;" in page
    assert not re.search(r"url\(|@import", page)


def test_every_figure_is_well_formed_and_labelled(page: str) -> None:
    for svg in re.findall("<svg.*?</svg>", page, re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label")


def test_titles_name_datasets_only_where_needed(chain: dict[str, Dataset]) -> None:
    datasets = list(chain.values())
    titles = {step: report.title_of(dataset, datasets) for step, dataset in chain.items()}
    assert (titles["ingest"], titles["pretrain"]) == ("Corpus", "Pretraining")
    assert titles["finetune-classifier"] == "Fine-tuning: tiny"
    assert titles["evaluate-classifier"] == "Classifier, evaluated"
    assert report.title_of(chain["ingest"], [chain["ingest"]] * 2) == "Corpus: tiny"


def test_tiles_and_notes_show_the_numbers_of_each_kind(chain: dict[str, Dataset]) -> None:
    labels = [label for _, label in report.tiles(list(chain.values()))]
    evaluations = ["bits per byte, tiny", "accuracy, tiny", "F1, tiny"]
    assert labels == ["documents", "tokens", "parameters", *evaluations, "to make it all"]
    numbers = chain["ingest"].manifest.statistics
    assert report.note_of(chain["ingest"]) == f"{numbers['documents']:,} documents, {numbers['rejected']:,} rejected"


def test_undrawable_dataset_warns_and_the_rest_is_drawn(
    made: Callable[[str], Dataset], warnings: Any, tmp_path: Path
) -> None:
    gone = Dataset(tmp_path / "corpus" / "gone", made("ingest").manifest)
    html, _ = report.to_html([gone, made("pretrain")], ReportConfig(), StepContext(tmp_path, warnings))
    assert len(warnings.sentences) == 1 and "could be drawn" in warnings.sentences[0]
    assert "Gradient norm" in html
