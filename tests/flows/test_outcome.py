"""Steps as a run describes them at its end."""

import io
from pathlib import Path
from unittest.mock import MagicMock

from rich.console import Console

from flows.commands.closing import closing
from flows.outcome import Outcome, details, headline
from flows.tracking.notes import run_note


def test_earlier_decision_took_no_time_and_is_not_reused():
    summary = "spam/1 promoted. By hand: see [/notes]"
    before, now = (Outcome("promote", MagicMock(), 1.5, reused, summary) for reused in (True, False))
    assert [row.rpartition(" | ")[2] for row in run_note([before, now], {}).splitlines()[-2:]] == [" |", "1.5 s |"]
    out = io.StringIO()
    Console(file=out, width=120).print(closing("run", [before, now], Path(), 3))
    assert out.getvalue().count(summary) == 2 and "reused" not in out.getvalue() and "1.5 s" in out.getvalue()


def dataset(step, **statistics):
    return MagicMock(manifest=MagicMock(step=step, statistics=statistics))


def test_headline_is_the_steps_own_or_counts():
    tokens = dataset("tokenize", tokens=12_345, bytes_per_token=4.5, vocabulary=300)
    assert headline(tokens) == details(tokens) == "12.3k tokens of 4.50 bytes, vocabulary 300"
    assert headline(dataset("of a plugin", n_words=3, words="three")) == "3 n words"


def test_details_of_an_evaluation_show_its_baselines():
    keys = {"test/bits_per_byte": 2.0, "test/perplexity": 9.0, "test-baseline/unigram/bits_per_byte": 3.0}
    evaluation = dataset("evaluate-language", scored_tokens=1000, **keys)
    assert headline(evaluation) == "2.000 bits per byte, perplexity 9.0"
    assert details(evaluation).splitlines() == [
        "1,000 held-out tokens  bits/byte  perplexity",
        "this model                 2.000         9.0",
        "unigram                    3.000           -",
    ]
