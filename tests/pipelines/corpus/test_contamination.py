from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.contamination import Passages, cut
from pipelines.corpus.documents import Corpus
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

QUESTION = "Which of the four mills by the old river grinds the most grain in a single day of work?"
LETTERS = st.lists(st.sampled_from("abc"), max_size=30)


@given(LETTERS, LETTERS, st.integers(1, 5))
def test_shared_passages_equal_a_plain_search(one: list[str], two: list[str], n: int) -> None:
    known = {tuple(one[i : i + n]) for i in range(len(one) - n + 1)}
    words = [i for i in range(len(two) - n + 1) if tuple(two[i : i + n]) in known]
    expected = {place for i in words for place in range(i, i + n)}
    shared = Passages([" ".join(one)], n).shared(" ".join(two))
    assert {place for start, end in shared for place in range(start // 2, (end + 1) // 2)} == expected
    assert cut(" ".join(two), shared).split() == [word for i, word in enumerate(two) if i not in expected]


def test_case_and_punctuation_do_not_hide_a_passage() -> None:
    passages = Passages([QUESTION], 13)
    text = "Quiz: WHICH of the four mills, by the old river, grinds the most grain in -- a single day?! Nobody knows."
    ((start, end),) = passages.shared(text)
    assert text[start:end].startswith("WHICH") and text[start:end].endswith("day")
    assert not passages.shared("Which of the four mills by the old river grinds the most") and not passages.shared("")


@pytest.mark.parametrize("what", ["drop", "cut"])
def test_contaminated_documents_are_dropped_or_cut(build: Callable[..., Dataset], tmp_path: Path, what: str) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    texts = ["clean text", f"Before. {QUESTION} After.", QUESTION]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = Corpus(
        build(
            INGEST,
            {
                "sources": [{"uri": str(tmp_path / "a.jsonl")}],
                "decontaminate": [{"uri": str(tmp_path / "eval.jsonl"), "text": "question"}],
                "contaminated": what,
            },
        )
    )
    kept = [row["text"] for part in corpus.parts for row in read_rows(part)]
    rejected = [(row["reason"], row["text"]) for row in read_rows(corpus.rejected)]
    if what == "drop":
        assert kept == ["clean text"] and rejected == [("contaminated", text) for text in texts[1:]]
    else:
        assert kept == ["clean text", "Before. ? After.", "?"]
        assert rejected == [("contaminated passage", QUESTION[:-1])] * 2
    assert "eval.jsonl/eval.jsonl" in {source.name for source in corpus.dataset.manifest.sources}


def test_evaluation_set_without_text_is_an_error(build: Callable[..., Dataset], tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/a.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    (tmp_path / "eval/about.docx").write_bytes(b"PK")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("clean", QUESTION)))
    config = {"sources": [{"uri": str(tmp_path / "a.jsonl")}]}
    evaluation = {"uri": str(tmp_path / "eval")}
    with pytest.raises(InputError, match=r"'eval' .* has no usable text; .* no column 'text'; there are question"):
        build(INGEST, config | {"decontaminate": [evaluation]})
    corpus = build(INGEST, config | {"decontaminate": [evaluation | {"text": "question"}]})
    assert corpus.manifest.statistics["rejected_contaminated"] == 1
