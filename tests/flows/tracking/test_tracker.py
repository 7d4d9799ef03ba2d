"""Flow runs and steps in MLflow, with several processes at once."""

import threading

import pytest
from mlflow.tracking import MlflowClient

from flows.home import Home
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.config import RunConfig
from pipelines.store.step import StepType


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose MLflow database the first test creates."""
    return Home(tmp_path_factory.mktemp("home"))


def test_two_runs_begin_at_once(home, monkeypatch):
    config = RunConfig(name="x", ingest={"sources": [{"uri": "x.txt"}]})
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


def test_step_that_another_run_waited_for_is_logged_once(home, monkeypatch):
    # It finds the step published, and its run unfinished for as long as the builder logs the result.
    builder, waiter = Tracker(home, "y"), Tracker(home, "y")
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
