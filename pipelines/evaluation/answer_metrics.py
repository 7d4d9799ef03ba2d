"""How good are written answers? Overlap with references, repetition, length, and whether they end by themselves.

Each metric is a function of sums over items, so that it has an interval (see `pipelines.significance`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.significance import Interval, OfSums, Rows, bootstrap, share

SHORT = 5  # words of a response, up to which an answer can be expected to be the same


ORDER, BETA = 6, 2  # chrF2, as sacrebleu computes it by default


@dataclass(frozen=True)
class Measure:
    """A metric as a function of sums over items.

    rows: (N, K) quantities of each item. of_sums: the metric of their sums.
    each: (N,) the metric of each item alone; not a number where it has none.
    """

    rows: Rows
    of_sums: OfSums
    each: Rows


def measure_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """Every metric that compares answers with references, or looks at an answer alone.

    chrf: 0 to 100 (Popović 2015), as sacrebleu computes it.
    rouge_l: F of the longest common subsequence of words, 0 to 1 (Lin 2004), by rouge-score.
    exact_match: share of the answers that are the reference, but for case, where that has few words.
    repetition: share of an answer's runs of four words that it has had before (Welleck et al. 2020).
    length_ratio: words of an answer for each of its reference's, on average.
    distinct_1, distinct_2: distinct words, and pairs of words, as a share of all (Li et al. 2016).
    """
    said, real = [[words(text) for text in texts] for texts in (answers, references)]
    counts = np.array([_character_ngrams(a, r) for a, r in zip(answers, references, strict=True)], float)
    measures = {"chrf": Measure(counts, chrf, chrf(counts))}
    measures["rouge_l"] = mean_of([_rouge().score(r, a)["rougeL"].fmeasure for a, r in zip(answers, references)])  # noqa: B905
    short = [len(r) <= SHORT for r in real]
    same = [a.strip().casefold() == r.strip().casefold() for a, r in zip(answers, references, strict=True)]
    if any(short):
        measures["exact_match"] = mean_of([float(s) if few else np.nan for s, few in zip(same, short, strict=True)])
    runs_of_four = [_runs(each, 4) for each in said]
    measures["repetition"] = ratio_of(
        [len(runs) - len(set(runs)) for runs in runs_of_four], [len(runs) for runs in runs_of_four]
    )
    measures["length_ratio"] = mean_of([len(a) / max(len(r), 1) for a, r in zip(said, real, strict=True)])
    return measures | {f"distinct_{n}": _distinct(said, n) for n in (1, 2)}


def ratio_of(part: Sequence[float] | NDArray[Any], whole: Sequence[float] | NDArray[Any]) -> Measure:
    """One sum over another, of what each item has of the two (N,)."""
    rows = np.stack([part, whole], 1).astype(np.float64)
    return Measure(rows, lambda sums: share(sums[..., 0], sums[..., 1]), share(*rows.T))


def mean_of(values: Sequence[float]) -> Measure:
    """The mean of each item's value; items without one (not a number) do not count."""
    each = np.array(values, float)
    known = ~np.isnan(each)
    return replace(ratio_of(np.where(known, each, 0), known), each=each)


def interval(measure: Measure) -> Interval:
    return bootstrap(measure.rows, measure.of_sums)


def words(text: str) -> list[str]:
    """Words in lower case, as rouge-score divides English, but with the letters of every language."""
    return re.findall(r"[^\W_]+", text.lower())


def chrf(sums: Rows) -> Rows:
    """chrF, 0 to 100, of summed counts (..., 18): the F-score of mean precision and mean recall over n."""
    said, real, both = (sums[..., i::3] for i in range(3))  # each (..., 6)
    orders = (said > 0) & (real > 0)
    n = np.maximum(orders.sum(-1), 1)
    precision = (share(both, said) * orders).sum(-1) / n
    recall = (share(both, real) * orders).sum(-1) / n
    return 100 * share((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def _character_ngrams(answer: str, reference: str) -> list[int]:
    """(18,) counts for chrF: of n-grams of characters, n from 1 to 6, the answer's, the reference's, and shared."""
    answer, reference = "".join(answer.split()), "".join(reference.split())
    counts = []
    for n in range(1, ORDER + 1):
        said, real = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (answer, reference))
        counts += [said.total() if real else 0, real.total(), (said & real).total()]
    return counts


def _distinct(said: Sequence[Sequence[str]], n: int) -> Measure:
    """Distinct runs of n words, as a share of all that the answers have together.

    A resample repeats answers, and must not count that as repetition. So it varies the runs that one answer alone has,
    and leaves those of several answers, of which each answer gets an equal part, as many as they are: the jackknife's
    view, which never sees too small a variance (Efron and Stein 1981).
    """
    runs = [_runs(each, n) for each in said]
    answers_with = Counter(run for each in runs for run in set(each))
    alone = [sum(answers_with[run] == 1 for run in set(each)) for each in runs]
    of_several = len(answers_with) - sum(alone)
    counted = ratio_of([each + of_several / len(said) for each in alone], [len(each) for each in runs])
    return replace(counted, each=share(np.array([len(set(each)) for each in runs]), counted.rows[:, 1]))


def _runs(said: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every run of n words."""
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


class _Words:
    """The tokenizer that rouge-score is given."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
