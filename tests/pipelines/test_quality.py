from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import quality
from pipelines.datasets import Corpus
from pipelines.errors import InputError
from pipelines.ingest import INGEST
from pipelines.quality import PRESETS, judged, rules_of
from pipelines.store import Dataset
from pipelines.tables import read_rows

PROSE = "The mill that stands by the river grinds slowly, and with it the people of the town have bread. " * 5
BAD = {
    "n_words between 50 and 100000": "The mill and the river.",
    "mean_word_length between 3 and 10": "a b c of the it to and be " * 10,
    "symbol_ratio <= 0.1": "the mill and # # # # river of grinding stones " * 10,
    "bullet_lines <= 0.9": "\n".join(f"- the mill and the river number {i} of all" for i in range(20)),
    "ellipsis_lines <= 0.3": "\n".join(
        f"the mill and the river number {i} of all the rivers that there are..." for i in range(20)
    ),
    "alphabetic_words >= 0.8": "the mill 123456 and 567890 river 8901234 of " * 10,
    "stop_words >= 2": "Mühle mahlt langsam aber sicher jeden Morgen " * 10,
    "duplicate_lines <= 0.3": "the mill and the river are old\n" * 10,
    "n_sentences >= 3": "The mill grinds. It grinds well",
    "not contains(lower(text), 'lorem ipsum')": "Lorem ipsum is no text. It is not. It never was.",
    "not contains(text, '{')": "The code is { here. It is there. It is everywhere.",
}


def row(text: str) -> dict[str, Any]:
    return {"text": text, "source": "s", "split": "train", "n_bytes": len(text.encode()), "language": None}


@pytest.mark.parametrize("rule", BAD)
def test_each_published_rule_catches_what_it_is_about(rule: str) -> None:
    preset = next(name for name, rules in PRESETS.items() if rule in rules)
    good, bad = judged([row(PROSE), row(BAD[rule])], rules_of([preset]))
    assert "reason" not in good and bad["reason"] == f"quality: {rule}"


def test_statistics_are_what_their_names_say() -> None:
    (only,) = judged([row("One two.\n\n- Three #4 …\n- Three #4 …")], rules_of(["true"]))
    statistics = only["statistics"]
    assert (statistics["n_words"], statistics["n_lines"], statistics["n_sentences"]) == (10, 3, 3)
    assert statistics["symbol_ratio"] == pytest.approx(4 / 10)
    assert statistics["bullet_lines"] == pytest.approx(2 / 3) == statistics["ellipsis_lines"]
    assert statistics["duplicate_lines"] == pytest.approx(1 / 3)
    assert statistics["alphabetic_words"] == pytest.approx(4 / 10)


def test_order_is_kept_and_rejected_rows_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "BATCH_BYTES", 100)
    rows = [row(f"{i} " + "x " * (i % 7)) for i in range(50)]
    rows[10] = {"text": "", "reason": "empty"}
    rows[11] = {"text": None, "reason": "broken"}
    found = list(judged([dict(each) for each in rows], ["n_words < 5"]))
    assert [each["text"] for each in found] == [each["text"] for each in rows]
    assert [each.get("reason") for each in found[9:12]] == [None, "empty", "broken"]
    assert all(("reason" in each) == (i % 7 >= 4) for i, each in enumerate(found) if i not in (10, 11))


@pytest.mark.parametrize("text", ["", " ", "\n\n", "#", "..."])
def test_no_text_breaks_a_statistic(text: str) -> None:
    (only,) = judged([row(text)], rules_of(["gopher"]))
    assert only["reason"].startswith("quality: n_words")


@pytest.mark.parametrize(
    "rule", ["n_wrds > 3", "n_words >", "1; drop table x", "(SELECT count(*) FROM '/etc/passwd') > 0"]
)
def test_a_rule_that_is_no_sql_over_the_statistics_is_one_sentence(rule: str) -> None:
    with pytest.raises(InputError, match="neither a preset") as caught:
        rules_of([rule])
    assert "\n" not in str(caught.value)


def test_rules_reach_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(InputError):
        rules_of([f"(SELECT count(*) FROM read_csv('{tmp_path}/secret.csv')) > 0"])
    with pytest.raises(InputError):
        rules_of(["true) THEN 'x' END AS y FROM documents; SET enable_external_access = true; --"])


def test_an_ingest_keeps_what_meets_the_rules_and_says_why_it_does_not_keep_the_rest(
    build: Callable[..., Dataset], tmp_path: Path
) -> None:
    texts = [PROSE, "short", "Die Mühle am Fluss mahlt langsam, und mit ihr haben die Leute der Stadt Brot. " * 5]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {
        "sources": [{"uri": str(tmp_path / "a.jsonl")}],
        "language": True,
        "keep": ["n_words >= 50", "language = 'en'"],
    }
    corpus = Corpus(build(INGEST, config))
    (kept,) = read_rows(corpus.parts[0])
    assert kept["language"] == "en" and kept["statistics"]["n_words"] == 95
    rejected = list(read_rows(corpus.rejected))
    assert [each["reason"] for each in rejected] == ["quality: n_words >= 50", "quality: language = 'en'"]
    assert rejected[0]["statistics"]["n_words"] == 1 and rejected[1]["language"] == "de"
    statistics = corpus.dataset.manifest.statistics
    assert Counter({name: n for name, n in statistics.items() if name.startswith("rejected_")}) == {
        "rejected_quality_n_words_50": 1,
        "rejected_quality_language_en": 1,
    }
