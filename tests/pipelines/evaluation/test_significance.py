"""Intervals and paired tests, against scipy and by simulation."""

import numpy as np
import pytest
from scipy import stats

from pipelines.evaluation import significance
from pipelines.evaluation.metrics import Measure, columns, mean_of
from pipelines.evaluation.promotion import level
from pipelines.evaluation.significance import intervals, mcnemar, randomisation


def paired_bootstrap(first, second):
    return significance.paired_bootstrap({"metric": first}, {"metric": second})["metric"]


def test_mcnemar_is_the_binomial_test_of_disagreements():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 1], bool)
    second = np.array([0, 0, 0, 0, 0, 1, 0, 1, 0, 1], bool)
    table = [[2, 5], [1, 2]]  # both right, first alone; second alone, both wrong
    assert mcnemar(first, second) == stats.binomtest(table[0][1], 6).pvalue == pytest.approx(0.21875)
    assert mcnemar(first, second) == mcnemar(second, first)
    assert mcnemar(first, first) == 1


def test_randomisation_is_scipys_permutation_test_of_pairs():
    rng = np.random.default_rng(1)
    first = rng.exponential(size=9)
    second = first + rng.normal(0.3, 0.4, size=9)
    theirs = stats.permutation_test(
        (first, second), lambda a, b: np.mean(b) - np.mean(a), permutation_type="samples", n_resamples=np.inf
    )
    assert randomisation(mean_of(first), mean_of(second)) == pytest.approx(theirs.pvalue, abs=0.01)
    assert randomisation(mean_of(first), mean_of(first)) == 1
    assert randomisation(mean_of(first), mean_of(first - 1), 1e-4) == pytest.approx(2 / 2**9, rel=0.2)


def test_levels_of_all_challenges_add_up_to_twice_the_significance():
    levels = [level(0.05, number) for number in range(1, 100_000)]
    assert levels[0] == 0.05 and levels == sorted(levels, reverse=True)
    assert 0.0999 < sum(levels) < 0.1, "a challenger that is no better is better by half of each, two-sided level"


@pytest.mark.slow
@pytest.mark.parametrize("n_items", [10, 60])
def test_many_challengers_that_are_no_better_are_rarely_promoted(n_items, monkeypatch):
    monkeypatch.setattr(significance, "RESAMPLES", 1000)
    rng, promoted, n_champions = np.random.default_rng(5), 0, 300
    for _ in range(n_champions):
        hard, sizes = rng.lognormal(0, 2, n_items), rng.integers(1, 50, n_items)  # items differ more than models
        losses = [hard * rng.lognormal(0, 0.3, n_items) for _ in range(9)]
        champion, *challengers = (
            Measure(columns(loss, sizes), lambda sums: sums[..., 0] / sums[..., 1]) for loss in losses
        )
        promoted += any(
            each.value < champion.value and randomisation(champion, each, level(0.05, number)) < level(0.05, number)
            for number, each in enumerate(challengers, 1)
        )
    assert 0 < promoted / n_champions <= 0.05


def test_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(3).exponential(size=80)
    ours = intervals({"mean": mean_of(values)})["mean"]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_real_difference_is_second_minus_first():
    rng = np.random.default_rng(0)
    first = rng.normal(size=100)
    better = first + rng.normal(0.2, 0.1, size=100)  # small beside the spread, large beside the paired spread
    result = paired_bootstrap(mean_of(first), mean_of(better))
    assert result.p < 0.001 and result.difference.low > 0.15
    assert result.difference.value == pytest.approx(result.second.value - result.first.value)
    assert stats.ttest_ind(first, better).pvalue > 0.05, "unpaired, it would not show"
    mirrored = paired_bootstrap(mean_of(better), mean_of(first))
    assert mirrored.difference.value == -result.difference.value and mirrored.p == result.p


def test_same_items_give_the_same_p():
    values = np.random.default_rng(1).normal(size=30)
    assert paired_bootstrap(mean_of(values), mean_of(values)).p == 1
    noisy = values + np.random.default_rng(2).normal(size=30)
    assert paired_bootstrap(mean_of(values), mean_of(noisy)) == paired_bootstrap(mean_of(values), mean_of(noisy))


def f1(sums):
    return 2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


@pytest.mark.parametrize("shape", ["losses", "f1"])
def test_one_test_in_twenty_finds_a_difference_by_chance(monkeypatch, shape):
    found, trials, n = 0, 400, 150
    weights = list(significance.resamples(n, most=1000))  # drawn once for all trials
    monkeypatch.setattr(significance, "resamples", lambda n, most: weights)
    rng = np.random.default_rng(4)
    for _ in range(trials):
        if shape == "losses":
            shared = rng.exponential(size=n)
            pair = [mean_of(shared + rng.exponential(size=n)) for _ in range(2)]
        else:
            truth = rng.random(n) < 0.3
            predicted = [np.where(rng.random(n) < 0.8, truth, ~truth) for _ in range(2)]
            pair = [Measure(columns(p & truth, p & ~truth, ~p & truth), f1) for p in predicted]
        found += paired_bootstrap(*pair).p < 0.05
    assert 0.02 < found / trials < 0.085  # 0.05 give or take three standard errors


def test_mcnemar_has_few_false_alarms():
    rng = np.random.default_rng(5)
    pairs = rng.random((2000, 2, 100)) < 0.8
    found = np.mean([mcnemar(first, second) < 0.05 for first, second in pairs])
    assert 0.01 < found < 0.055
