"""Names in the form that MLflow accepts."""

from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from flows.tracking.entities import mlflow_name


@given(key=st.text(min_size=1))
@example("classify/f1//x")
@example("../label")
@example("label_[INST] 😀")
@example("tokenmill/.")
def test_any_label_becomes_a_name_that_mlflow_accepts(key):
    for check in (_validate_metric_name, _validate_param_name):
        check(mlflow_name(key))


def test_names_of_tokenmill_do_not_change():
    for name in ("test/bits_per_byte", "classify-baseline/tf_idf/f1", "promote.classification.guard.classify/accuracy"):
        assert mlflow_name(name) == name
