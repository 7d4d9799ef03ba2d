"""Composition: the result of Python's function, in time proportional to the text."""

import sys
import unicodedata
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus import composition
from pipelines.corpus.composition import FIRST, LAST, SAMPLES, STEP, compose, has_long_run

MARKS = "\u0301\u0323\u05b0\u0e38\u3099\u0344\u0f71\u0f72\u0f73\u0f81"
PARTS = st.tuples(st.sampled_from(["", "a", "ệ", "ｶ", "각", "\n", "q" * 20]), st.text(MARKS, max_size=400))


@given(st.lists(PARTS | st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=6))
def test_marks_are_composed_as_python_composes_them(parts: list[tuple[str, str]]) -> None:
    text = "".join(character for part in parts for character in part)
    assert compose(text) == unicodedata.normalize("NFC", text)


def test_python_gets_long_runs_in_order_only() -> None:
    for run in ("\u0301" * 9_000 + "\u0323" * 9_000, "\u0f73" * 9_000, "\u0344\u0323" * 9_000):
        ordered = composition._ordered("a" + run)
        assert all(first <= second for first, second in pairwise(map(unicodedata.combining, ordered)))


def test_many_marks_are_composed_at_once() -> None:
    n = 250_000
    assert compose("a" + "\u0301" * n + "\u0323" * n) == "ạ" + "\u0323" * (n - 1) + "\u0301" * n


def test_runs_are_found_wherever_they_start() -> None:
    for before in range(STEP + 1):
        for mark in "\u0301\u0f73":
            assert has_long_run("q" * before + mark * (STEP * SAMPLES) + "q" * before), before
            assert not has_long_run(("q" * before + mark * (STEP * SAMPLES - STEP) + "q" * STEP) * 3), before


def test_every_mark_of_this_python_is_known() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        first = unicodedata.normalize("NFD", character)[0] if unicodedata.decomposition(character) else character
        if unicodedata.combining(first):
            assert FIRST <= ord(character) <= LAST and composition._marks()[ord(character)]
