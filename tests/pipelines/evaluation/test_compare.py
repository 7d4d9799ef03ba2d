"""Comparisons of two models: the evaluations' own metrics, on the same items only."""

import numpy as np
import pytest
from sacrebleu import corpus_chrf

from pipelines.errors import InputError
from pipelines.evaluation.classification_metrics import Answers, measure_classes
from pipelines.evaluation.compare import Difference, compare, judged_on, matching, same_items
from pipelines.evaluation.language_metrics import language_metrics
from pipelines.evaluation.significance import Interval

ITEMS = [f"item-{i}" for i in range(200)]


def classified(publish, name, right, seed=0, **facts):
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(200) < 0.3, "spam", "ham")
    other = np.where(truth == "spam", "ham", "spam")
    predicted = np.where(np.random.default_rng(int(right * 1000)).random(200) < right, truth, other)
    numbers = [np.array([["ham", "spam"].index(x) for x in each]) for each in (truth, predicted)]
    answers = Answers(*numbers, np.eye(2)[numbers[1]], ("ham", "spam"), 1, 2)
    metrics = {name: measure.value for name, measure in measure_classes(answers).items()}
    predictions = {"item": ITEMS, "truth": truth.tolist(), "model_label": predicted.tolist()}
    return publish("classification", name, metrics, predictions, positive="spam", **facts)


def test_classifiers_are_compared_by_their_evaluations_metrics(publish):
    good, bad = classified(publish, "good", 0.95), classified(publish, "bad", 0.8)
    found = {each.metric: each for each in compare(bad, good)}
    for name in ("accuracy", "precision", "recall", "f1", "f1_macro"):
        each = found[f"classify/{name}"]
        assert each.first.value == pytest.approx(bad.manifest.statistics[f"classify/{name}"])
        assert each.second.value == pytest.approx(good.manifest.statistics[f"classify/{name}"])
        assert each.first.low < each.first.value < each.first.high
    assert found["classify/accuracy"].test == "McNemar" and found["classify/f1"].test == "paired bootstrap"
    assert found["classify/f1"].verdict() == "better" and found["classify/f1"].gain > 0.1
    swapped = {each.metric: each for each in compare(good, bad)}
    assert swapped["classify/f1"].verdict() == "worse"
    assert all(each.verdict() == "no difference shown" for each in compare(good, classified(publish, "same", 0.95)))


def test_other_tokenizers_leave_metrics_per_byte_and_word(publish):
    rng = np.random.default_rng(0)
    n_bytes, n_tokens = rng.integers(500, 1000, 200), rng.integers(100, 200, 200)

    def evaluate(name, per_token, tokens=n_tokens):
        losses = per_token * tokens * rng.normal(1, 0.05, 200)
        metrics = language_metrics(losses, tokens, n_bytes, n_bytes // 6)
        sizes = {"tokens": tokens, "bytes": n_bytes, "words": n_bytes // 6}
        return publish("language", name, metrics, {"item": ITEMS, **sizes, "model_loss": losses})

    first, second, other = evaluate("first", 3.0), evaluate("second", 2.9), evaluate("other", 1.4, n_tokens * 2)
    found = {each.metric: each for each in compare(first, second)}
    everywhere = ["test/bits_per_byte", "test/byte_perplexity", "test/word_perplexity"]
    assert {name: each.verdict() for name, each in found.items()} == dict.fromkeys(
        [*everywhere, "test/loss", "test/perplexity"], "better"
    )
    for name, each in found.items():
        assert each.second.value == pytest.approx(second.manifest.statistics[name])
        assert each.gain > 0 > each.difference.value
    assert [each.metric for each in compare(first, other)] == everywhere
    assert compare(first, other)[0].verdict() == "better"


def test_metric_of_a_source_points_the_same_way(publish):
    def evaluate(name, loss, tokens):
        sizes = {"tokens": np.full(200, tokens), "bytes": np.full(200, 500), "words": np.full(200, 80)}
        metrics = language_metrics(np.full(200, loss), *sizes.values())
        metrics |= {
            "loss/source/f1": loss / tokens,
            "bits_per_byte/source/accuracy": loss / 500,
            "memorised_share": 0.1,
        }
        return publish("language", name, metrics, {"item": ITEMS, **sizes, "model_loss": np.full(200, float(loss))})

    first, worse, other = evaluate("first", 300.0, 100), evaluate("worse", 310.0, 100), evaluate("other", 310.0, 50)
    found = {each.metric: each for each in compare(first, worse)}
    for name in ("test/loss/source/f1", "test/bits_per_byte/source/accuracy", "test/bits_per_byte"):
        assert found[name].gain < 0, name
    nothing, tenth = Interval(0, 0, 0), Interval(0.1, 0.1, 0.1)
    memorised, precision = (
        Difference(nothing, tenth, tenth, None, name) for name in ("test/memorised_share", "classify/precision/loss")
    )
    assert memorised.gain < 0 < precision.gain
    assert "test/loss/source/f1" not in {each.metric for each in compare(first, other)}, "of other tokens"


def test_compared_assistants_have_sacrebleus_chrf(publish):
    responses = [f"The answer to question {i} is {i * i}."[11 * (i % 3 > 1) :] for i in range(200)]
    answers = {
        "exact": responses,
        "near": [r.replace("question", "query") if i % 3 else r for i, r in enumerate(responses)],
        "empty": [""] * 200,
    }
    made = {
        name: publish(
            "instruction",
            name,
            {"chrf": corpus_chrf(texts, [responses]).score, "judge_score": 0.5},
            {
                "item": ITEMS,
                "response": responses,
                "model_answer": texts,
                "tokens": [9] * 200,
                "model_loss": [1.0] * 200,
            },
        )
        for name, texts in answers.items()
    }
    for name in ("near", "empty"):
        found = {each.metric: each for each in compare(made["exact"], made[name])}
        assert found["instruct/chrf"].second.value == pytest.approx(corpus_chrf(answers[name], [responses]).score)
        assert found["instruct/chrf"].verdict() == found["instruct/exact_match"].verdict() == "worse"
        assert found["instruct/loss"].verdict() == "no difference shown"
        assert found["instruct/rouge_l"].verdict() == "worse" and found["instruct/exact_match"].test == "McNemar"
        assert (
            found["instruct/judge_score"].p is None and found["instruct/judge_score"].verdict() == "no difference shown"
        )
        assert found["instruct/distinct_1"].test == "paired bootstrap"
    assert found["instruct/distinct_1"].verdict() == "worse"


def test_only_the_same_items_are_compared(publish, ref_of, store):
    ours = classified(publish, "ours", 0.9)
    with pytest.raises(InputError, match=r"model/theirs@.* has not been evaluated"):
        matching([ref_of("ours"), ref_of("theirs")], store)
    theirs = classified(publish, "theirs", 0.9, seed=1)
    assert not same_items(ours, theirs)
    with pytest.raises(InputError, match=r"only the same items can be compared\.$"):
        compare(ours, theirs)
    with pytest.raises(InputError, match=r"model/theirs@.* was judged on the test split of examples/held-out@1212"):
        matching([ref_of("ours"), ref_of("theirs")], store)
    validation = classified(publish, "theirs", 0.9, config={"split": "validation"})
    assert not same_items(ours, validation), "another split"
    fitting = classified(publish, "fitting", 0.9)
    assert matching([ref_of("ours"), ref_of("fitting")], store) == [ours, fitting]


def test_models_of_one_task_are_compared(publish, ref_of, store):
    right = np.arange(40) % 2 == 0
    predictions = {"item": [f"item-{i}" for i in range(40)], "answer": ["a"] * 40}
    for name, answers in {"ours": right, "theirs": ~right}.items():
        columns = {"model_right": answers, "model_right_normalised": answers}
        publish("choice", name, {"accuracy": 0.5, "accuracy_normalised": 0.5}, predictions | columns)
    first, second = matching([ref_of("ours"), ref_of("theirs")], store)
    assert judged_on(first) == "task ours" and judged_on(second) == "task theirs"
    assert {each.test for each in compare(first, second)} == {"McNemar"}
