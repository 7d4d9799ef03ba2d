from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.corpus import quality
from pipelines.corpus.documents import DOCUMENTS, Corpus
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.corpus.quality import PRESETS, apply_rules, rules_of
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

pytestmark = pytest.mark.integration

PROSE = (
    "The mill that stands by the river grinds slowly, and with it the people of our town have bread. "
    "Its wheel was built in a winter of deep snow by two brothers who could not agree on anything else. "
    "Nobody remembers why they quarrelled! Some say it was about a horse, others that one of them had sold his half "
    "of an orchard to a stranger. What is certain is this: when spring came, water ran again, and flour with it."
)
RANDOM = random.Random(3)
WORDS = ["".join(RANDOM.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(200)]


def repeated(n: int, share: float) -> str:
    """A hundred words, a share of which are a run of n that was there before."""
    runs = [WORDS[i * n : (i + 1) * n] for i in range(-(-int(100 * share) // n))]
    again = [word for run in reversed(runs) for word in run]
    return " ".join([*WORDS[: 100 - len(again)], *again])


DUPLICATES = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
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
    "duplicate_paragraphs <= 0.3": "\n\n".join(["one\ntwo"] * 5 + WORDS[:7]),
    "duplicate_line_characters <= 0.2": "\n".join([PROSE] * 2 + WORDS[:30]),
    "duplicate_paragraph_characters <= 0.2": "\n\n".join([f"{PROSE}\n{PROSE}"] * 2 + WORDS[:30]),
    "top_2gram <= 0.2": " ".join(f"the mill {word} {word[::-1]}" for word in WORDS[:20]),
    "top_3gram <= 0.18": " ".join(f"the old mill {word} {word[::-1]}" for word in WORDS[:20]),
    "top_4gram <= 0.16": " ".join(f"in the old mill {word} {word[::-1]}" for word in WORDS[:20]),
    **{f"duplicate_{n}grams <= {limit}": repeated(n, limit + 0.05) for n, limit in DUPLICATES.items()},
    "n_sentences >= 3": "The mill grinds. It grinds well",
    "not contains(lower(text), 'lorem ipsum')": "Lorem ipsum is no text. It is not. It never was.",
    "not contains(text, '{')": "The code is { here. It is there. It is everywhere.",
}


def verdicts(texts: list[str], rules: list[str]) -> tuple[list[str | None], list[dict[str, Any]]]:
    """The rule that turns each text away, and its statistics."""
    columns = {
        "text": pa.array(texts, pa.string()),
        "source": pa.array(["s"] * len(texts)),
        "split": pa.array(["train"] * len(texts)),
        "n_bytes": pa.array([len(text.encode()) for text in texts], pa.int64()),
        "language": pa.nulls(len(texts), pa.string()),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    documents, broken = apply_rules(batch, rules_of(rules))
    assert documents.drop_columns("statistics") == batch
    assert documents.schema.field("statistics") == DOCUMENTS.field("statistics")
    return broken.to_pylist(), documents["statistics"].to_pylist()


@pytest.mark.parametrize("rule", BAD)
def test_each_preset_rule_rejects_its_case(rule: str) -> None:
    assert any(rule in rules for rules in PRESETS.values())
    assert verdicts([PROSE, BAD[rule]], [rule])[0] == [None, rule]


@pytest.mark.parametrize("preset", PRESETS)
def test_good_prose_meets_every_preset(preset: str) -> None:
    assert set(PRESETS[preset]) - {"bad_words = 0"} <= BAD.keys()
    assert verdicts([PROSE], [preset])[0] == [None]


def test_statistics_match_their_names() -> None:
    _, (statistics,) = verdicts(["One two.\n\n- Three #4 …\n- Three #4 …"], ["true"])
    assert (statistics["n_words"], statistics["n_lines"], statistics["n_sentences"]) == (10, 3, 3)
    assert statistics["symbol_ratio"] == pytest.approx(2 / 10)
    assert statistics["bullet_lines"] == pytest.approx(2 / 3) == statistics["ellipsis_lines"]
    assert statistics["duplicate_lines"] == pytest.approx(1 / 3)
    assert statistics["alphabetic_words"] == pytest.approx(4 / 10)


def test_verdicts_come_in_the_order_of_the_documents() -> None:
    broken, statistics = verdicts([f"{i} " + "x " * (i % 7) for i in range(5000)], ["n_words < 5"])
    assert [each["n_words"] for each in statistics] == [1 + i % 7 for i in range(5000)]
    assert all((rule is not None) == (i % 7 >= 4) for i, rule in enumerate(broken))
    assert verdicts([], ["n_words < 5"]) == ([], [])
    documents_alone = pa.RecordBatch.from_pydict({"text": ["x"]})
    documents, broken = apply_rules(documents_alone, [])
    assert documents == documents_alone and broken.to_pylist() == [None], "without rules there is nothing to tell"


def plainly(text: str, n: int) -> tuple[float, float]:
    """Shares of the top n-gram and of repeated n-grams, word by word."""
    words = text.split()
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    most, times = max(Counter(runs).items(), key=lambda item: (item[1], len("".join(item[0]))), default=((), 0))
    top = {i + j for i, run in enumerate(runs) if run == most and times > 1 for j in range(n)}
    repeated = {i + j for i, run in enumerate(runs) if run in runs[:i] for j in range(n)}
    return tuple(sum(len(words[i]) for i in places) / len("".join(words)) for places in (top, repeated))  # type: ignore


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), min_size=1, max_size=30))
def test_repetition_equals_counting_word_by_word(words: list[str]) -> None:
    text = " ".join(words)
    found = quality.repetition(text, [*quality.TOP_NGRAMS, *quality.DUPLICATE_NGRAMS])
    for name, n in quality.DUPLICATE_NGRAMS.items():
        assert found[name] == pytest.approx(plainly(text, n)[1])
    for name, n in quality.TOP_NGRAMS.items():
        top = plainly(text, n)[0]
        assert (found[name] == 0) == (top == 0) and found[name] <= 1
        if len({len(word) for word in words}) == len(set(words)) == 1:
            assert found[name] == pytest.approx(top)


def test_repetition_of_hand_made_texts() -> None:
    found = quality.repetition("a b a b c d e", ["top_2gram", "top_3gram", "duplicate_5grams"])
    assert found == {"top_2gram": 4 / 7, "top_3gram": 0, "duplicate_5grams": 0}
    found = quality.repetition("of the old mill it is said of the old mill it", ["top_4gram", "duplicate_5grams"])
    assert found == {"top_4gram": 24 / 34, "duplicate_5grams": 14 / 34}


def test_unused_statistics_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    real = quality.repetition
    monkeypatch.setattr(quality, "repetition", lambda text, names: asked.append(tuple(names)) or real(text, names))
    _, (plain,) = verdicts([PROSE], ["n_words > 1"])
    _, (named,) = verdicts([PROSE], ["top_2gram < 0.5 or duplicate_7grams < 0.5"])
    assert asked == [("top_2gram", "duplicate_7grams")]
    assert plain["top_2gram"] is None and named["duplicate_7grams"] == 0


def test_bad_words_are_whole_words_and_phrases_in_any_case() -> None:
    bad = quality.bad_words_of(["darn", "Hot  Potato", "", "darn it"])
    assert quality.bad_words_in("Darn! The darning needle, a hot potato; DARN it.", bad) == 4
    assert quality.bad_words_in("hot, potatoes", bad) == 0


def test_bad_word_list_changes_the_version(build: Callable[..., Dataset], tmp_path: Path) -> None:
    texts = ["One darn thing. And another. And a third.", "Nothing. Of the. Kind."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "bad.txt").write_text("darn\n")
    config = {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "keep": ["c4"]}
    assert build(INGEST, config).manifest.statistics["documents"] == 2
    listed = Corpus(build(INGEST, config | {"bad_words": str(tmp_path / "bad.txt")}))
    (caught,) = read_rows(listed.rejected)
    assert (caught["reason"], caught["statistics"]["bad_words"]) == ("quality: bad_words = 0", 1)
    (tmp_path / "bad.txt").write_text("thing\nkind\n")
    with pytest.raises(InputError, match=r"Every document was rejected|no usable document"):
        build(INGEST, config | {"bad_words": str(tmp_path / "bad.txt")})
    with pytest.raises(InputError, match=r"ingest\.bad_words names no list"):
        build(INGEST, config | {"keep": ["bad_words < 3"]})


def test_rule_on_the_language_needs_the_language() -> None:
    source = {"uri": "a.jsonl"}
    rule = "n_words >= 50 and mean_word_length between 3 and 10 and symbol_ratio < 0.1 and language = 'en'"
    config = IngestConfig.model_validate({"sources": [source], "keep": rule, "language": True})
    assert config.keep == (rule,) and rules_of(config.keep) == [rule]
    with pytest.raises(ValidationError, match="asks for the language, so language has to be true"):
        IngestConfig.model_validate({"sources": [source], "keep": ["gopher", rule]})
    IngestConfig.model_validate({"sources": [source], "keep": "not contains(text, 'a language')"})


@pytest.mark.parametrize("text", ["", " ", "\n\n", "#", "..."])
def test_empty_texts_break_no_statistic(text: str) -> None:
    (broken,), _ = verdicts([text], ["gopher"])
    assert broken is not None and broken.startswith("n_words")


@pytest.mark.parametrize(
    "rule", ["n_wrds > 3", "n_words >", "1; drop table x", "(SELECT count(*) FROM '/etc/passwd') > 0"]
)
def test_invalid_rule_is_one_sentence(rule: str) -> None:
    with pytest.raises(InputError, match="neither a preset") as caught:
        rules_of([rule])
    assert "\n" not in str(caught.value)


def test_rules_reach_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(InputError):
        rules_of([f"(SELECT count(*) FROM read_csv('{tmp_path}/secret.csv')) > 0"])
    with pytest.raises(InputError):
        rules_of(["true) THEN 'x' END AS y FROM documents; SET enable_external_access = true; --"])


def test_ingest_rejects_documents_with_the_broken_rule(build: Callable[..., Dataset], tmp_path: Path) -> None:
    texts = [PROSE, "short", "Die Mühle am Fluss mahlt langsam, und mit ihr haben die Leute der Stadt Brot. " * 5]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {
        "sources": [{"uri": str(tmp_path / "a.jsonl")}],
        "language": True,
        "keep": ["n_words >= 50", "language = 'en'"],
    }
    corpus = Corpus(build(INGEST, config))
    (kept,) = read_rows(corpus.parts[0])
    assert kept["language"] == "en" and kept["statistics"]["n_words"] == len(PROSE.split())
    rejected = list(read_rows(corpus.rejected))
    assert [each["reason"] for each in rejected] == ["quality: n_words >= 50", "quality: language = 'en'"]
    assert rejected[0]["statistics"]["n_words"] == 1 and rejected[1]["language"] == "de"
    statistics = corpus.dataset.manifest.statistics
    assert Counter({name: n for name, n in statistics.items() if name.startswith("rejected_")}) == {
        "rejected_quality_n_words_at_least_50": 1,
        "rejected_quality_language_en": 1,
    }
