"""Metrics of answers, against sacrebleu, rouge-score and their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_chrf, sentence_chrf

from pipelines.evaluation.answer_metrics import METRICS
from pipelines.evaluation.metrics import mean_of, measures
from pipelines.evaluation.significance import intervals


def measure_answers(answers, references):
    return measures(METRICS, {"answer": answers, "response": references})


text = st.text("abc ,.A", max_size=30)
pairs = st.lists(st.tuples(text, text.filter(str.strip)), min_size=1, max_size=8)


@given(pairs=pairs)
def test_chrf_and_rouge_l_equal_reference_libraries(pairs):
    answers, references = zip(*pairs, strict=True)
    found = measure_answers(answers, references)
    assert found["chrf"].value == pytest.approx(corpus_chrf(list(answers), [list(references)]).score, abs=1e-9)
    each = [sentence_chrf(a, [r]).score for a, r in pairs]
    assert found["chrf"].each == pytest.approx(each, abs=1e-9)
    scorer = RougeScorer(["rougeL"])
    rouge = [scorer.score(r, a)["rougeL"].fmeasure for a, r in pairs]
    assert found["rouge_l"].each == pytest.approx(rouge) and found["rouge_l"].value == pytest.approx(np.mean(rouge))


def test_rouge_l_reads_every_language():
    measure = measure_answers(["Der Löwe schläft", "да нет"], ["der löwe wacht", "нет"])["rouge_l"]
    assert measure.each == pytest.approx([2 / 3, 2 / 3])


def test_exact_match_counts_short_references_only():
    references = ["Paris", "a b c d e f g", "London"]
    measure = measure_answers([" paris", "a b c d e f g", "Rome"], references)["exact_match"]
    assert measure.value == 0.5 and np.isnan(measure.each[1])
    assert "exact_match" not in measure_answers(["a"], ["a b c d e f g"])


def test_repetition_length_and_distinct_words_are_counted():
    looping = "a b c d a b c d a b c d"
    found = measure_answers([looping, "x"], ["a b c", "x"])
    assert found["repetition"].each == pytest.approx([5 / 9, 0]) and found["repetition"].value == 5 / 9
    assert found["length_ratio"].each == pytest.approx([4, 1]) and found["length_ratio"].value == 2.5
    assert found["distinct_1"].value == pytest.approx(5 / 13)
    assert found["distinct_2"].each == pytest.approx([4 / 11, 0])
    assert measure_answers(["a b", "a b", "b a"], ["r"] * 3)["distinct_2"].value == pytest.approx(2 / 3)
    assert measure_answers([""], ["r"])["distinct_2"].value == 0


def test_interval_of_distinct_words_predicts_other_answers():
    rng = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, 500)

    def drawn():
        texts = (rng.choice(499, rng.integers(1, 15), p=frequencies / frequencies.sum()) for _ in range(60))
        return measure_answers([" ".join(map(str, each)) for each in texts], ["r"] * 60)["distinct_1"]

    found = intervals({"distinct_1": drawn()})["distinct_1"]
    others = [drawn().value for _ in range(40)]
    assert found.low < found.value < found.high
    assert np.mean([found.low < other < found.high for other in others]) > 0.5
    assert 0.6 < (found.high - found.low) / (2 * 1.96 * np.std(others)) < 1.6


@given(values=st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=2, max_size=30))
def test_mean_ignores_items_without_a_value(values):
    found = intervals({"mean": mean_of(values)})["mean"]
    known = [each for each in values if not np.isnan(each)]
    assert found.value == pytest.approx(np.mean(known) if known else 0)
    assert found.low <= found.high
