"""The tables of tasks and metrics."""

from pipelines.evaluation.tasks import METRICS, TASKS, title_of


def test_tasks_agree_on_metrics_of_the_same_name():
    for task in TASKS.values():
        assert set(task.compared) <= set(task.metrics)
        for name, metric in task.metrics.items():
            assert metric.lower_is_better == METRICS[name].lower_is_better


def test_metrics_have_titles():
    assert [title_of(name) for name in ("bits_per_byte", "f1", "chrf", "unheard_of")] == [
        "Bits per byte",
        "F1",
        "chrF",
        "Unheard of",
    ]
