from __future__ import annotations

from collections import Counter

import pytest

from pipelines.corpus.labels import check_labels, listed
from pipelines.errors import InputError


def found(counts: dict[str, int], train: dict[str, int] | None = None) -> list[str]:
    sentences: list[str] = []
    check_labels(Counter(counts), Counter(counts if train is None else train), sentences.append)
    return sentences


def test_usual_labels_pass() -> None:
    assert found({"ham": 20, "spam": 3}) == []
    assert found({f"intent {i}": 2 for i in range(150)}) == []
    assert found({"ham": 1, "spam": 1}) == []


def test_one_label_for_each_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"40 examples, 40 labels: .* Are `text` and `label` swapped\?"):
        found({f"a text {i}": 1 for i in range(40)})


@pytest.mark.parametrize(
    ("counts", "train", "seen"),
    [({"ham": 40}, {"ham": 30}, "the one label ham"), ({"ham": 20, "spam": 1}, {"ham": 9}, "the one label ham"),
     ({"ham": 20, "spam": 1}, {}, "no example")],
)  # fmt: skip
def test_one_label_in_training_is_refused(counts: dict[str, int], train: dict[str, int], seen: str) -> None:
    with pytest.raises(InputError, match=f"the train split has {seen}; a classifier needs two labels"):
        found(counts, train)


def test_labels_for_most_texts_cause_a_warning() -> None:
    counts = {f"a text {i}": 1 for i in range(35)} | {"twice": 5}
    assert found(counts) == ["40 examples, 36 labels: are `text` and `label` swapped?"]


def test_labels_that_occur_once_cause_a_warning() -> None:
    (sentence,) = found({"ham": 20, "spam": 9, "sp\nam": 1, "x" * 500: 1})
    assert sentence.startswith("2 labels with one example, which cannot be both learnt and tested: sp\\nam, xxxx")
    assert len(sentence) < 200


@pytest.mark.parametrize("pair", ["Spam spam", "a  b|a b", "a\u200db|ab", "1|1.0", "-1|-1.00", "STRASSE|straße"])
def test_labels_that_look_alike_cause_a_warning(pair: str) -> None:
    one, two = pair.split("|" if "|" in pair else " ")
    (sentence,) = found({one: 5, two: 5, "other": 5})
    assert sentence.startswith("labels that differ only in case")


def test_label_that_looks_missing_causes_a_warning() -> None:
    (sentence,) = found({"NaN": 5, "ham": 7})
    assert sentence == "5 examples with a label that looks like a missing value: NaN"


def test_long_lists_of_labels_are_cut() -> None:
    assert listed(["a", "b c", "", *map(str, range(6))], most=3) == "a, 'b c', '' and 6 more"
