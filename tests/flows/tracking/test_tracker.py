"""MLflow may be away: a step goes on, what it tells is kept, and arrives when MLflow is back."""

import json
import logging
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from flows.home import Home
from flows.tracking import entities, step_run
from flows.tracking.step_run import SENDER, StepRun, TrackingError, reaching
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.config import RunConfig
from pipelines.store.step import StepType


class Client:
    """Stands for MLflow's: takes what it is told, or is away, or hangs."""

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


def test_what_is_told_arrives(client, tmp_path):
    run = StepRun(client, "r", tmp_path)
    train(run, range(3000))
    run.text("samples/a.txt", "Once")
    run.metrics(3000, {"val/loss": float("nan")})
    assert run.flush()
    assert len(client.metrics) == 6000 and client.texts == {"samples/a.txt": "Once"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_step_goes_on_while_mlflow_is_away_and_its_curves_arrive_later(client, tmp_path, how):
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
    assert time.monotonic() - started < 10, "no step waited for long"
    client.away = False
    client.answers.set()
    run.deliver()
    assert [step for key, step in sorted(client.metrics) if key == "train/loss"] == list(range(60))
    assert len(client.texts) == 5
    assert not list(tmp_path.iterdir())


def test_a_run_that_dies_while_mlflow_is_away_leaves_its_curves_to_the_next(client, tmp_path):
    run = StepRun(client, "r", tmp_path)
    client.away = True
    train(run, range(20))
    run.text("samples/a.txt", "Once\nupon")
    assert not run.flush()  # as before each checkpoint
    train(run, range(20, 25))  # after the checkpoint, so the next run does these again
    del run
    client.away = False
    again = StepRun(client, "r", tmp_path)
    train(again, range(20, 40))
    again.deliver()
    assert [step for key, step in sorted(client.metrics) if key == "train/loss"] == list(range(40))
    assert client.texts == {"samples/a.txt": "Once\nupon"}
    assert not list(tmp_path.iterdir())


def test_mlflow_that_stays_away_ends_a_run_with_a_sentence_and_keeps_the_curves(client, tmp_path):
    run = StepRun(client, "r", tmp_path)
    client.away = True
    train(run, range(5))
    sentence = r"^MLflow at http://mlflow:5000 does not answer.*run again"
    with pytest.raises(TrackingError, match=sentence) as caught, reaching("http://reader:secret@mlflow:5000"):
        run.deliver()
    assert "secret" not in str(caught.value)
    run.end("FAILED", "no MLflow")
    assert client.ended == []
    (kept,) = tmp_path.iterdir()
    assert [json.loads(line)["step"] for line in kept.read_text().splitlines()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    client.away = False
    run.end("FAILED", "no MLflow")
    assert client.ended == ["FAILED"] and not kept.exists()


def test_a_server_that_still_deals_with_what_was_given_up_on_is_told_again(client, tmp_path, monkeypatch):
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


def test_a_person_learns_once_that_a_run_waits_for_mlflow(capsys):
    log = logging.getLogger("urllib3.connectionpool")

    def retry(url):
        log.warning("Retrying (%r) after connection broken by '%r': %s", "Retry(total=5)", "refused", url)

    with reaching("http://mlflow:5000"):
        retry("/bucket/key")
        sender = threading.Thread(target=retry, args=["/api/2.0/mlflow/runs/log-batch"], name=SENDER)
        sender.start()
        sender.join()
        assert "waiting" not in capsys.readouterr().err
        retry("/api/2.0/mlflow/runs/create")
        retry("/api/2.0/mlflow/runs/create")
    retry("/api/2.0/mlflow/runs/create")
    assert capsys.readouterr().err.count("waiting") == 1


def test_two_runs_may_begin_at_once(tmp_path, monkeypatch):
    home, config = Home(tmp_path), RunConfig(name="x", ingest={"sources": [{"uri": "x.txt"}]})
    unseen = iter([None, None])  # both look for the experiment before either has made it
    find = MlflowClient.get_experiment_by_name
    monkeypatch.setattr(
        MlflowClient,
        "get_experiment_by_name",
        lambda client, name: next(unseen) if unseen.__length_hint__() else find(client, name),
    )
    first, second = Tracker(home, "x"), Tracker(home, "x")
    assert first.experiment_id == second.experiment_id

    ended = []

    def begin_and_end():
        with second.flow_run(config, {}):
            pass
        ended.append(second.parent)

    other = threading.Thread(target=begin_and_end)
    create = MlflowClient.create_run

    def create_while_another_looks(client, *arguments, **named):
        run = create(client, *arguments, **named)
        if client is first.client:
            other.start()
            other.join(0.5)
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_while_another_looks)
    with first.flow_run(config, {}):
        other.join()
        run = first.client.get_run(first.parent)
        assert run.info.status == "RUNNING" and "tokenmill.ended" not in run.data.tags
    assert ended and first.client.get_run(ended[0]).info.status == "FINISHED"
    assert first.client.get_run(first.parent).info.status == "FINISHED"


def test_a_step_that_another_run_waited_for_is_recorded_once(tmp_path, monkeypatch):
    """Who waits for a step finds it published, and its run unfinished for as long as the builder still tells MLflow."""
    home = Home(tmp_path)
    builder, waiter = Tracker(home, "x"), Tracker(home, "x")
    step = StepType("read", "corpus", 1, Config, lambda: {}).using("x", Config(), {})
    run = builder.open_step(step, {})
    built_by = {"mlflow_run_id": run.run_id, "seconds": 1.0}
    dataset = home.store.build(step, lambda out, scratch: {"documents": 3}, built_by=built_by)

    recorded, problems = [], []
    log_inputs = MlflowClient.log_inputs

    def reuse():
        try:
            waiter.reuse_step(dataset, {})
        except Exception as error:
            problems.append(error)

    other = threading.Thread(target=reuse)

    def log_inputs_while_another_looks(client, run_id, **named):
        recorded.append(client)
        if client is builder.client:
            other.start()
            other.join(0.5)
        log_inputs(client, run_id, **named)

    monkeypatch.setattr(MlflowClient, "log_inputs", log_inputs_while_another_looks)
    builder.finish_step(run.run_id, dataset, {})
    other.join()
    assert recorded == [builder.client] and not problems
    assert builder.client.get_run(run.run_id).info.status == "FINISHED"


@given(key=st.text(min_size=1))
@example("classify/f1//x")
@example("../label")
@example("label_[INST] 😀")
@example("tokenmill/.")
def test_any_label_of_a_users_makes_a_name_that_mlflow_takes(key):
    for check in (_validate_metric_name, _validate_param_name):
        check(entities.mlflow_name(key))


def test_names_of_our_own_stay_as_they_are():
    for name in ("test/bits_per_byte", "classify-baseline/tf_idf/f1", "promote.classification.guard.classify/accuracy"):
        assert entities.mlflow_name(name) == name
