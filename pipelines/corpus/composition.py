"""Composition: Unicode normal form C in time proportional to the text, however many marks follow each other.

Python's own function orders the marks of a run by insertion, which takes the square of the run's length: a hundred
thousand marks take ten seconds. So texts with long runs are ordered here first, by one stable sort (Unicode Standard
Annex 15, canonical ordering). All other texts go to Python's function as they are.
"""

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

STEP, SAMPLES = 16, 8  # of STEP * SAMPLES marks in a row, every STEP-th character gives SAMPLES marks in a row
DECOMPOSED_TO_MARKS = "\u0f73\u0f75\u0f81"  # all characters without a class of their own that become several marks
FIRST, LAST = 0x300, 0x1FFFF  # code points of marks


def compose(text: str) -> str:
    """Return a text in Unicode normal form C."""
    return compose_short_runs(_ordered(text) if has_long_run(text) else text)


def compose_short_runs(text: str) -> str:
    """Return a text without long runs of marks in Unicode normal form C."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def has_long_run(text: str) -> bool:
    """Return whether many marks may follow each other in a text. It looks at every `STEP`-th character only."""
    if len(text) < STEP * SAMPLES or text.isascii():
        return False
    codes = _codes(text[::STEP])
    if codes.max() < FIRST or not (is_mark := _marks()[codes.clip(max=LAST + 1)]).any():
        return False
    others = np.flatnonzero(np.concatenate([[True], ~is_mark, [True]]))
    return int(np.diff(others).max()) > SAMPLES


def _ordered(text: str) -> str:
    """Return a text in normal form D: decomposed in short pieces, then with each run of marks in order."""
    pieces = (unicodedata.normalize("NFD", text[at : at + 64]) for at in range(0, len(text), 64))
    codes = _codes("".join(pieces))
    classes = _classes()[codes.clip(max=LAST + 1)]
    runs = np.cumsum(classes == 0)  # each character without a class starts a run
    ordered = codes[np.argsort(runs << 8 | classes, kind="stable")]
    return ordered.tobytes().decode("utf-32-le", "surrogatepass")


@cache
def _classes() -> NDArray[np.uint8]:
    """Return the canonical combining class of each code point up to the last mark: 0 if it is not reordered."""
    classes = np.zeros(LAST + 2, np.uint8)
    classes[FIRST : LAST + 1] = [unicodedata.combining(chr(code)) for code in range(FIRST, LAST + 1)]
    return classes


@cache
def _marks() -> NDArray[np.bool_]:
    """Return whether each code point up to the last mark is reordered, or becomes some that are."""
    marks = _classes() > 0
    marks[_codes(DECOMPOSED_TO_MARKS)] = True
    return marks


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
