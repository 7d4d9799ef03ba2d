"""A step continues while MLflow is away, and its curves are logged when MLflow is back."""

import json
import threading
import time

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException

from flows.tracking import step_run
from flows.tracking.step_run import StepRun
from pipelines.errors import InputError
from pipelines.store.step import Stopped


class Client:
    """A client of an MLflow that stores what it receives, or is away, or hangs."""

    def __init__(self):
        self.metrics, self.texts, self.ended = {}, {}, []
        self.away, self.answers = False, threading.Event()
        self.answers.set()

    def get_metric_history(self, run_id, key):
        return [Metric(k, v, 0, step) for (k, step), v in self.metrics.items() if k == key]

    def log_batch(self, run_id, metrics):
        self._answer()
        self.metrics |= {(metric.key, metric.step): metric.value for metric in metrics}

    def log_text(self, run_id, text, path):
        self._answer()
        self.texts[path] = text

    def set_tag(self, run_id, key, value):
        self._answer()

    def set_terminated(self, run_id, status):
        self._answer()
        self.ended.append(status)

    def _answer(self):
        self.answers.wait(20)
        if self.away:
            raise MlflowException("API request to http://127.0.0.1:9/api failed with exception refused")


@pytest.fixture
def client():
    return Client()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(step_run, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(step_run, "BATCH_SECONDS", 0.0)


def train(run, steps):
    for step in steps:
        run.metrics(step, {"train/loss": 1 / (step + 1), "train/tokens": step})


@pytest.mark.parametrize("run_id", ["../../victim", "/victim", "a\0"])
def test_name_of_a_run_cannot_lead_out_of_the_unsent_folder(client, tmp_path, run_id):
    with pytest.raises(InputError, match="names no file in"):
        StepRun(client, run_id, tmp_path / "unsent")


def test_curves_and_texts_arrive(client, tmp_path):
    run = StepRun(client, "r", tmp_path)
    train(run, range(3000))
    run.text("samples/a.txt", "Once")
    run.metrics(3000, {"val/loss": float("nan")})
    assert run.flush()
    assert len(client.metrics) == 6000 and client.texts == {"samples/a.txt": "Once"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_step_continues_while_mlflow_is_away(client, tmp_path, how):
    run = StepRun(client, "r", tmp_path)
    train(run, range(10))
    assert run.flush()
    client.away = how == "refuses"
    client.answers.clear() if how == "hangs" else None
    started = time.monotonic()
    for step in range(10, 60):
        train(run, [step])
        if step % 10 == 0:
            run.text(f"samples/{step}.txt", "Once")
            assert not run.flush()
    assert time.monotonic() - started < 10, "no step waited long"
    client.away = False
    client.answers.set()
    run.deliver()
    assert [step for key, step in sorted(client.metrics) if key == "train/loss"] == list(range(60))
    assert len(client.texts) == 5
    assert not list(tmp_path.iterdir())


def test_next_run_sends_the_curves_of_a_dead_one(client, tmp_path):
    run = StepRun(client, "r", tmp_path)
    client.away = True
    train(run, range(20))
    run.text("samples/a.txt", "Once\nupon")
    assert not run.flush()  # as before each checkpoint
    train(run, range(20, 25))  # after the checkpoint, so the next run repeats them
    del run
    client.away = False
    again = StepRun(client, "r", tmp_path)
    train(again, range(20, 40))
    again.deliver()
    assert [step for key, step in sorted(client.metrics) if key == "train/loss"] == list(range(40))
    assert client.texts == {"samples/a.txt": "Once\nupon"}
    assert not list(tmp_path.iterdir())


def test_long_outage_keeps_the_curves(client, tmp_path):
    run = StepRun(client, "r", tmp_path)
    client.away = True
    train(run, range(5))
    with pytest.raises(MlflowException):
        run.deliver()
    run.end(RuntimeError("no MLflow"))
    assert client.ended == []
    (kept,) = tmp_path.iterdir()
    assert [json.loads(line)["step"] for line in kept.read_text().splitlines()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    client.away = False
    run.end(RuntimeError("no MLflow"))
    assert client.ended == ["FAILED"] and not kept.exists()


def test_refused_values_are_sent_again(client, tmp_path, monkeypatch):
    refused = []

    def refuse_once(run_id, metrics):
        if not refused:
            refused.append(metrics)
            raise RestException({"error_code": "BAD_REQUEST", "message": "UNIQUE constraint failed: metrics.key"})
        return Client.log_batch(client, run_id, metrics)

    monkeypatch.setattr(client, "log_batch", refuse_once)
    run = StepRun(client, "r", tmp_path)
    train(run, range(3))
    run.deliver()
    assert refused and len(client.metrics) == 6


def test_error_decides_how_a_run_ends(client):
    for error in (Stopped("stopped"), KeyboardInterrupt(), ValueError("bad")):
        step_run.end_run(client, "r", error)
    assert client.ended == ["KILLED", "KILLED", "FAILED"]
    client.away = True
    step_run.end_run(client, "r", ValueError("bad"))  # the next run in the home closes it
