"""The decision between champion and challenger."""

import numpy as np
import pytest

from pipelines.evaluation.language_metrics import language_metrics
from pipelines.evaluation.promotion import PromoteConfig, decide

ITEMS = [f"item-{i}" for i in range(100)]
SPREAD = np.random.default_rng(0).normal(1, 0.05, 100)


@pytest.fixture
def evaluate(publish):
    """evaluate(name, loss) publishes the evaluation of a language model."""

    def evaluate(name, loss, tokens=10, items=ITEMS):
        sizes = {"tokens": np.full(100, tokens), "bytes": np.full(100, 50), "words": np.full(100, 8)}
        losses = loss * SPREAD
        metrics = language_metrics(losses, *sizes.values())
        predictions = {"item": items, **sizes, "model_loss": losses}
        return publish("language", name, metrics, predictions, trial=True, items=len(items))

    return evaluate


def rule(challenger, champion, **criterion):
    return decide(challenger, champion, PromoteConfig(language=criterion))


def test_better_challenger_is_promoted_with_the_reason(evaluate):
    ruling = rule(evaluate("new", 20.0), evaluate("old", 30.0))
    assert ruling.promoted and ruling.why.startswith("Better: trial/bits_per_byte 0.8") and "p < 0.001" in ruling.why
    assert ruling.differences[0].metric == "trial/bits_per_byte"


@pytest.mark.parametrize(
    ("loss", "criterion", "why"),
    [
        (40.0, {}, "Not better: trial/bits_per_byte"),
        (30.0, {}, "Not better"),
        (29.0, {"margin": 1}, "Not better by the margin of 1"),
        (40.0, {"guard": {"trial/word_perplexity": 0.5}}, "A guarded metric got worse: trial/word_perplexity"),
    ],
)
def test_other_challengers_are_kept_back_with_the_reason(evaluate, loss, criterion, why):
    ruling = rule(evaluate("new", loss), evaluate("old", 30.0), **criterion)
    assert not ruling.promoted and ruling.why.startswith(why)


def test_incomparable_models_are_kept_back(evaluate):
    old = evaluate("old", 30.0)
    other_tokens = rule(evaluate("new", 20.0, tokens=20), old, metric="trial/loss")
    assert other_tokens.why == "trial/loss cannot be compared between different tokenizers."
    other_items = rule(evaluate("else", 20.0, items=ITEMS[::-1]), old)
    assert other_items.why == "The two were judged on different items." and not other_items.differences


def test_names_of_evaluations_metrics_are_read_as_those_of_trials():
    criterion = {"metric": "classify/f1/spam", "guard": {"classify/accuracy": 0.1}}
    found = PromoteConfig(classification=criterion).classification
    assert (found.metric, found.guard) == ("trial/f1/spam", {"trial/accuracy": 0.1})
