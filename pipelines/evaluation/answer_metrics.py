"""Metrics of written answers: overlap with references, repetition, length, and whether answers end by themselves."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipelines.evaluation.metrics import Measure, Metric, Rows, mean_of, ratio_of, share

SHORT = 5  # words of a response, up to which an answer can be expected to be the same


ORDER, BETA = 6, 2  # chrF2, as sacrebleu computes it by default


Texts = Sequence[str]


# What each metric measures


def _chrf(answers: Texts, references: Texts) -> Measure:
    """Measure chrF, 0 to 100 (Popović 2015), as sacrebleu computes it."""
    counts = np.array([_character_ngrams(*pair) for pair in zip(answers, references, strict=True)], float)
    return Measure(counts, chrf, each=chrf(counts))


def _rouge_l(answers: Texts, references: Texts) -> Measure:
    """Measure F of the longest common subsequence of words, 0 to 1 (Lin 2004), by rouge-score."""
    return mean_of([_rouge().score(*pair)["rougeL"].fmeasure for pair in zip(references, answers, strict=True)])


def _exact_match(answers: Texts, references: Texts) -> Measure | None:
    """Measure the share of answers that equal a reference of few words, ignoring case."""
    pairs = zip(answers, references, strict=True)
    same = [float(a.strip().casefold() == r.strip().casefold()) if _is_short(r) else np.nan for a, r in pairs]
    return mean_of(same) if any(map(_is_short, references)) else None


def _repetition(answers: Texts) -> Measure:
    """Measure the share of an answer's runs of four words that appeared in it before (Welleck et al. 2020)."""
    runs = [_runs(each, 4) for each in answers]
    return ratio_of([len(each) - len(set(each)) for each in runs], [len(each) for each in runs])


def _length_ratio(answers: Texts, references: Texts) -> Measure:
    """Measure the words of an answer per word of its reference, on average."""
    return mean_of([len(words(a)) / max(len(words(r)), 1) for a, r in zip(answers, references, strict=True)])


def _distinct(n: int, answers: Texts) -> Measure:
    """Measure distinct runs of n words, as a share of all runs in all answers (Li et al. 2016).

    A resample repeats answers, which must not count as repetition. Only runs that a single answer has vary in a
    resample. The number of the other runs is fixed, and each answer gets an equal part of it. This is the jackknife's
    view, whose variance is never too small (Efron and Stein 1981).
    """
    runs = [_runs(each, n) for each in answers]
    answers_with = Counter(run for each in runs for run in set(each))
    alone = [sum(answers_with[run] == 1 for run in set(each)) for each in runs]
    shared, totals = len(answers_with) - sum(alone), [len(each) for each in runs]
    counted = ratio_of([each + shared / len(runs) for each in alone], totals)
    return replace(counted, each=ratio_of([len(set(each)) for each in runs], totals).each)


PAIR = ("answer", "response")


METRICS = {
    "loss": Metric(ratio_of, ("loss", "tokens"), lower_is_better=True, per_token=True),
    "chrf": Metric(_chrf, PAIR, title="chrF"),
    "rouge_l": Metric(_rouge_l, PAIR, title="ROUGE-L"),
    "exact_match": Metric(_exact_match, PAIR, right_or_wrong=True),
    "repetition": Metric(_repetition, ("answer",), lower_is_better=True),
    "length_ratio": Metric(_length_ratio, PAIR),
    "distinct_1": Metric(partial(_distinct, 1), ("answer",)),
    "distinct_2": Metric(partial(_distinct, 2), ("answer",)),
    "ended": Metric(mean_of, ("ended",)),
    "judge_score": Metric(mean_of, ("score",)),
}


COMPARED = ("loss", "chrf", "rouge_l", "repetition", "distinct_1", "distinct_2", "exact_match")
"""The metrics that a comparison tests, in its order."""


# Words and n-grams


def words(text: str) -> list[str]:
    """Return words in lower case, split as rouge-score splits English, but with the letters of every language."""
    return re.findall(r"[^\W_]+", text.lower())


def chrf(sums: Rows) -> Rows:
    """Return chrF, 0 to 100, of summed counts (..., 18): the F-score of mean precision and mean recall over n."""
    answer, reference, both = (sums[..., i::3] for i in range(3))  # each (..., 6)
    orders = (answer > 0) & (reference > 0)
    n = np.maximum(orders.sum(-1), 1)
    precision = (share(both, answer) * orders).sum(-1) / n
    recall = (share(both, reference) * orders).sum(-1) / n
    return 100 * share((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def _character_ngrams(answer: str, reference: str) -> list[int]:
    """Return (18,) counts of character n-grams, n from 1 to 6: the answer's, the reference's and the shared ones."""
    answer, reference = "".join(answer.split()), "".join(reference.split())
    counts = []
    for n in range(1, ORDER + 1):
        ours, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (answer, reference))
        counts += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return counts


def _is_short(text: str) -> bool:
    return len(words(text)) <= SHORT


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    """Return every run of n words."""
    found = words(text)
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=words))
