"""Values that MLflow would refuse are left out or cut before it sees them."""

from types import SimpleNamespace

from flows.tracking import entities
from flows.tracking.entities import dataset_input, run_metrics, run_tags


def test_numbers_that_a_database_cannot_hold_are_no_metrics():
    values = {"a": 1, "b": 10**400, "c": float("nan"), "d": float("-inf"), "e": True, "f": "7", "g": 10**300}
    assert [metric.key for metric in run_metrics(values)] == ["a", "g"]


def test_long_tags_are_cut():
    (tag,) = run_tags({"k" * 300: "v" * 9000})
    assert (len(tag.key), len(tag.value)) == (250, 8000)


def test_list_of_columns_that_is_too_long_is_left_out(monkeypatch):
    manifest = SimpleNamespace(kind="model", name="x", digest="d" * 64, bytes=1, statistics={})
    dataset = SimpleNamespace(manifest=manifest, address="/x")
    for n, is_kept in ((10, True), (50_000, False)):
        monkeypatch.setattr(entities, "columns", lambda _, n=n: [(f"layer.{i}.weight", "F32 [1]") for i in range(n)])
        assert bool(dataset_input("output", dataset).dataset.schema) == is_kept
