"""Names in the form that MLflow accepts."""

from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from flows.tracking.entities import mlflow_names, run_metrics


@given(key=st.text(min_size=1))
@example("classify/f1//x")
@example("../label")
@example("label_[INST] 😀")
@example("tokenmill/.")
@example("a/" * 200 + "..")
def test_any_label_becomes_a_name_that_mlflow_accepts(key):
    for check in (_validate_metric_name, _validate_param_name):
        check(mlflow_names([key])[key])


def test_names_of_tokenmill_do_not_change():
    names = ["test/bits_per_byte", "classify-baseline/tf_idf/f1", "promote.classification.guard.classify/accuracy"]
    assert mlflow_names(names) == {name: name for name in names}


@given(keys=st.sets(st.text(max_size=4) | st.text("ab\n!/é😀", min_size=240, max_size=260), max_size=8))
@example({"label_a!", "label_a?", "label_A?", "label_a_"})
@example({"x" * 300 + "1", "x" * 300 + "2", "é" * 200})
def test_no_two_keys_become_one_name(keys):
    names = mlflow_names(keys)
    assert len({name.lower() for name in names.values()}) == len(keys)
    for name in names.values():
        _validate_metric_name(name)
        assert len(name.encode()) <= 250


def test_value_stays_with_its_key():
    values = {"label_a!": 1, "label_a?": 2, "b" * 300: 3, "text": "no number", "nan": float("nan")}
    metrics = run_metrics(values)
    assert [metric.value for metric in metrics] == [1, 2, 3]
    assert metrics[2].key.startswith("b" * 200)
