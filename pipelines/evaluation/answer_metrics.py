"""Metrics of written answers: overlap with references, repetition, length, and whether answers end by themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.metrics import Metric, measures
from pipelines.evaluation.significance import Measure, Rows, mean_of, ratio_of, share

SHORT = 5  # words of a response, up to which an answer can be expected to be the same


ORDER, BETA = 6, 2  # chrF2, as sacrebleu computes it by default


@dataclass(frozen=True)
class WrittenAnswers:
    """A system's answers to N instructions, with their references and, where known, what else was measured.

    Attributes:
        answers, references: N texts.
        losses, tokens: (N,) summed loss in nats, and number of the reference's tokens.
        ended: (N,) whether each answer ended before it had to.
        scores: (N,) the judge's scores, NaN where there is none.
    """

    answers: Sequence[str]
    references: Sequence[str]
    losses: NDArray[Any] | None = None
    tokens: NDArray[Any] | None = None
    ended: Sequence[float] | None = None
    scores: Sequence[float] | None = None

    @classmethod
    def of_predictions(cls, table: pa.Table) -> WrittenAnswers:
        """Read the model's columns of `predictions.parquet`."""
        answers, responses = table["model_answer"].to_pylist(), table["response"].to_pylist()
        losses, tokens = table["model_loss"].to_numpy(), table["tokens"].to_numpy()
        return cls(answers, [response.strip() for response in responses], losses, tokens)

    @cached_property
    def words(self) -> list[list[str]]:
        """The words of each answer."""
        return [words(text) for text in self.answers]

    @cached_property
    def reference_words(self) -> list[list[str]]:
        """The words of each reference."""
        return [words(text) for text in self.references]


# What each metric measures


def _loss(written: WrittenAnswers) -> Measure | None:
    """Measure nats per token of the references."""
    if written.losses is None or written.tokens is None:
        return None
    return ratio_of(written.losses, written.tokens)


def _chrf(written: WrittenAnswers) -> Measure:
    """Measure chrF, 0 to 100 (Popović 2015), as sacrebleu computes it."""
    pairs = zip(written.answers, written.references, strict=True)
    counts = np.array([_character_ngrams(*pair) for pair in pairs], float)
    return Measure(counts, chrf, each=chrf(counts))


def _rouge_l(written: WrittenAnswers) -> Measure:
    """Measure F of the longest common subsequence of words, 0 to 1 (Lin 2004), by rouge-score."""
    pairs = zip(written.references, written.answers, strict=True)
    return mean_of([_rouge().score(*pair)["rougeL"].fmeasure for pair in pairs])


def _exact_match(written: WrittenAnswers) -> Measure | None:
    """Measure the share of answers that equal a reference of few words, ignoring case."""
    short = [len(reference) <= SHORT for reference in written.reference_words]
    if not any(short):
        return None
    triples = zip(written.answers, written.references, short, strict=True)
    return mean_of([float(a.strip().casefold() == r.strip().casefold()) if few else np.nan for a, r, few in triples])


def _repetition(written: WrittenAnswers) -> Measure:
    """Measure the share of an answer's runs of four words that appeared in it before (Welleck et al. 2020)."""
    runs = [_runs(each, 4) for each in written.words]
    return ratio_of([len(each) - len(set(each)) for each in runs], [len(each) for each in runs])


def _length_ratio(written: WrittenAnswers) -> Measure:
    """Measure the words of an answer per word of its reference, on average."""
    pairs = zip(written.words, written.reference_words, strict=True)
    return mean_of([len(answer) / max(len(reference), 1) for answer, reference in pairs])


def _distinct(n: int) -> Callable[[WrittenAnswers], Measure]:
    """Return a measure of distinct runs of n words, as a share of all runs in all answers (Li et al. 2016).

    A resample repeats answers, which must not count as repetition. Only runs that a single answer has vary in a
    resample. The number of the other runs is fixed, and each answer gets an equal part of it. This is the jackknife's
    view, whose variance is never too small (Efron and Stein 1981).
    """

    def measure(written: WrittenAnswers) -> Measure:
        runs = [_runs(each, n) for each in written.words]
        answers_with = Counter(run for each in runs for run in set(each))
        alone = [sum(answers_with[run] == 1 for run in set(each)) for each in runs]
        shared = len(answers_with) - sum(alone)
        counted = ratio_of([each + shared / len(runs) for each in alone], [len(each) for each in runs])
        return replace(counted, each=share(np.array([len(set(each)) for each in runs]), np.array(list(map(len, runs)))))

    return measure


METRICS = {
    "loss": Metric(_loss, lower_is_better=True, per_token=True),
    "chrf": Metric(_chrf, title="chrF"),
    "rouge_l": Metric(_rouge_l, title="ROUGE-L"),
    "exact_match": Metric(_exact_match, right_or_wrong=True),
    "repetition": Metric(_repetition, lower_is_better=True),
    "length_ratio": Metric(_length_ratio),
    "distinct_1": Metric(_distinct(1)),
    "distinct_2": Metric(_distinct(2)),
    "ended": Metric(lambda written: None if written.ended is None else mean_of(written.ended)),
    "judge_score": Metric(lambda written: None if written.scores is None else mean_of(written.scores)),
}


COMPARED = ("loss", "chrf", "rouge_l", "repetition", "distinct_1", "distinct_2", "exact_match")


def measure_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """Return the metrics that need no more than answers and references, by name."""
    return measures(METRICS, WrittenAnswers(answers, references))


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


def _runs(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return every run of n words."""
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


class _Words:
    """The tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
