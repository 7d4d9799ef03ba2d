"""Models compared item by item: the metrics are the evaluation's own, and only like is compared with like."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from sacrebleu import corpus_chrf

from pipelines.errors import InputError
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT, EvaluateAssistantConfig
from pipelines.evaluation.classification_metrics import Answers, classification_metrics
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig
from pipelines.evaluation.compare import compare, gain, matching, same_items
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE, EvaluateLanguageConfig, language_metrics
from pipelines.evaluation.results import statistics, write_evaluation
from pipelines.store.manifest import Ref

TYPES = {
    "language": (EVALUATE_LANGUAGE, EvaluateLanguageConfig, "test"),
    "classification": (EVALUATE_CLASSIFIER, EvaluateClassifierConfig, "classify"),
    "instruction": (EVALUATE_ASSISTANT, EvaluateAssistantConfig, "instruct"),
}
ITEMS = [f"item-{i}" for i in range(200)]


def model(name):
    return Ref(kind="model", name=name, fingerprint=name.encode().hex() * 8, digest="ab")


@pytest.fixture
def judged(store):
    """judged(task, model name, metrics, predictions) publishes an evaluation."""

    def publish(task, name, metrics, predictions, **facts):
        type, config, stage = TYPES[task]
        on = Ref(kind="examples", name="held-out", fingerprint="12" * 32, digest="34")
        step = type.using(
            name,
            config(**facts.pop("config", {})),
            {"model": SimpleNamespace(ref=model(name)), "examples": SimpleNamespace(ref=on)},
        )

        def run(out, scratch):
            write_evaluation(out, {"model": metrics}, pa.table(predictions))
            return {"task": task, **facts, **statistics(stage, {"model": metrics})}

        return store.build(step, run)

    return publish


def classified(judged, name, right, seed=0, **facts):
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(200) < 0.3, "spam", "ham")
    other = np.where(truth == "spam", "ham", "spam")
    said = np.where(np.random.default_rng(int(right * 1000)).random(200) < right, truth, other)
    numbers = [np.array([["ham", "spam"].index(x) for x in each]) for each in (truth, said)]
    answers = Answers(*numbers, np.eye(2)[numbers[1]], ("ham", "spam"), 1, 2)
    metrics = classification_metrics(answers)
    predictions = {"item": ITEMS, "truth": truth.tolist(), "model_label": said.tolist()}
    return judged("classification", name, metrics, predictions, positive="spam", **facts)


def test_classifiers_are_compared_by_the_metrics_of_their_evaluations(judged):
    good, bad = classified(judged, "good", 0.95), classified(judged, "bad", 0.8)
    found = {each.metric: each for each in compare(bad, good)}
    for name in ("accuracy", "precision", "recall", "f1", "f1_macro"):
        each = found[f"classify/{name}"]
        assert each.first.value == pytest.approx(bad.manifest.statistics[f"classify/{name}"])
        assert each.second.value == pytest.approx(good.manifest.statistics[f"classify/{name}"])
        assert each.first.low < each.first.value < each.first.high
    assert found["classify/accuracy"].test == "McNemar" and found["classify/f1"].test == "paired bootstrap"
    assert found["classify/f1"].better() == "second" and found["classify/f1"].gain > 0.1
    swapped = {each.metric: each for each in compare(good, bad)}
    assert swapped["classify/f1"].better() == "first"
    assert all(each.better() is None for each in compare(good, classified(judged, "same", 0.95)))


def test_language_models_lower_is_better_and_another_tokenizer_leaves_bits_per_byte(judged):
    rng = np.random.default_rng(0)
    n_bytes, n_tokens = rng.integers(500, 1000, 200), rng.integers(100, 200, 200)

    def judge(name, per_token, tokens=n_tokens):
        losses = per_token * tokens * rng.normal(1, 0.05, 200)
        metrics = language_metrics(losses, tokens, n_bytes, n_bytes // 6)
        sizes = {"tokens": tokens, "bytes": n_bytes, "words": n_bytes // 6}
        return judged("language", name, metrics, {"item": ITEMS, **sizes, "model_loss": losses})

    first, second, other = judge("first", 3.0), judge("second", 2.9), judge("other", 1.4, n_tokens * 2)
    found = {each.metric: each for each in compare(first, second)}
    everywhere = ["test/bits_per_byte", "test/byte_perplexity", "test/word_perplexity"]
    assert {name: each.better() for name, each in found.items()} == dict.fromkeys(
        [*everywhere, "test/loss", "test/perplexity"], "second"
    )
    for name, each in found.items():
        assert each.second.value == pytest.approx(second.manifest.statistics[name])
        assert each.gain > 0 > each.difference.value
    assert [each.metric for each in compare(first, other)] == everywhere
    assert compare(first, other)[0].better() == "second"


def test_what_a_metric_is_of_changes_not_which_way_it_points(judged):
    def judge(name, loss, tokens):
        sizes = {"tokens": np.full(200, tokens), "bytes": np.full(200, 500), "words": np.full(200, 80)}
        metrics = language_metrics(np.full(200, loss), *sizes.values())
        metrics |= {
            "loss/source/f1": loss / tokens,
            "bits_per_byte/source/accuracy": loss / 500,
            "memorised_share": 0.1,
        }
        return judged("language", name, metrics, {"item": ITEMS, **sizes, "model_loss": np.full(200, float(loss))})

    first, worse, other = judge("first", 300.0, 100), judge("worse", 310.0, 100), judge("other", 310.0, 50)
    found = {each.metric: each for each in compare(first, worse)}
    for name in ("test/loss/source/f1", "test/bits_per_byte/source/accuracy", "test/bits_per_byte"):
        assert found[name].gain < 0, name
    assert gain("test/memorised_share", 0.1) < 0 < gain("classify/precision/loss", 0.1)
    assert "test/loss/source/f1" not in {each.metric for each in compare(first, other)}, "of other tokens"


def test_assistants_have_sacrebleus_chrf(judged):
    responses = [f"The answer to question {i} is {i * i}."[11 * (i % 3 > 1) :] for i in range(200)]
    answers = {
        "exact": responses,
        "near": [r.replace("question", "query") if i % 3 else r for i, r in enumerate(responses)],
        "empty": [""] * 200,
    }
    made = {
        name: judged(
            "instruction",
            name,
            {"chrf": corpus_chrf(said, [responses]).score, "judge_score": 0.5},
            {
                "item": ITEMS,
                "response": responses,
                "model_answer": said,
                "tokens": [9] * 200,
                "model_loss": [1.0] * 200,
            },
        )
        for name, said in answers.items()
    }
    for name in ("near", "empty"):
        found = {each.metric: each for each in compare(made["exact"], made[name])}
        assert found["instruct/chrf"].second.value == pytest.approx(corpus_chrf(answers[name], [responses]).score)
        assert found["instruct/chrf"].better() == found["instruct/exact_match"].better() == "first"
        assert found["instruct/loss"].better() is None
        assert found["instruct/rouge_l"].better() == "first" and found["instruct/exact_match"].test == "McNemar"
        assert found["instruct/judge_score"].p is None and found["instruct/judge_score"].better() is None
        assert found["instruct/distinct_1"].test == "paired bootstrap"
    assert found["instruct/distinct_1"].better() == "first"


def test_only_the_same_items_are_compared(judged, store):
    ours = classified(judged, "ours", 0.9)
    with pytest.raises(InputError, match=r"model/theirs@.* has not been evaluated"):
        matching([model("ours"), model("theirs")], store)
    theirs = classified(judged, "theirs", 0.9, seed=1)
    assert not same_items(ours, theirs)
    with pytest.raises(InputError, match=r"only the same items can be compared\.$"):
        compare(ours, theirs)
    with pytest.raises(InputError, match=r"model/theirs@.* was judged on the test split of examples/held-out@1212"):
        matching([model("ours"), model("theirs")], store)
    validation = classified(judged, "theirs", 0.9, config={"split": "validation"})
    assert not same_items(ours, validation), "another split"
    fitting = classified(judged, "fitting", 0.9)
    assert matching([model("ours"), model("fitting")], store) == [ours, fitting]
