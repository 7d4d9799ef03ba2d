"""Flow runs and steps in MLflow: with several processes at once, and after somebody has changed MLflow's database."""

import getpass
import json
import os
import shutil
import threading

import pytest
from mlflow.entities import Metric, RunTag
from mlflow.tracking import MlflowClient
from pydantic import Field

from flows.home import Home
from flows.label import Label
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.config import RunConfig
from pipelines.store.step import StepType, Stopped


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
            waiter.reuse_step(step, dataset)
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


class Source(Config):
    uri: str


class Place(Config):
    uri: str = Field(json_schema_extra={"fingerprint": False})


def read(uri):
    return StepType("read", "corpus", 1, Source, lambda: {}).using("x", Source(uri=uri), {})


def place(uri):
    return StepType("read", "corpus", 1, Place, lambda: {}).using("y", Place(uri=uri), {})


def track(home, experiment):
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it, for the home before
    return Tracker(home, experiment)


def build(tracker, step):
    """Build a step as the conductor does."""
    run = tracker.open_step(step, {})
    built_by = {"mlflow_run_id": run.run_id, "seconds": 1.0}
    dataset = tracker.home.store.build(step, lambda out, scratch: {"documents": 3}, built_by=built_by)
    tracker.finish_step(run.run_id, dataset, {})
    return dataset


def copy_of(home, to):
    shutil.copytree(home.path, to)
    return Home(to)


def test_resumed_step_may_name_its_place_otherwise(home):
    tracker = track(home, "places")
    runs = {tracker.open_step(place(uri), {}).run_id for uri in ("a.txt", "b.txt", "b.txt")}
    (run,) = (tracker.client.get_run(run_id) for run_id in runs)
    assert run.data.params == {"uri": "a.txt"} and run.data.tags["tokenmill.changed.uri"] == "b.txt"


def test_value_that_mlflow_refuses_is_left_out_with_a_word(home, capsys):
    tracker = track(home, "refused")
    run_id = tracker.open_step(place("refused.txt"), {}).run_id
    now = 1_000
    tracker._log(run_id, metrics=[Metric("good", 1.0, now, 0), Metric("b?d", 2.0, now, 0)], tags=[RunTag("t", "x")])
    run = tracker.client.get_run(run_id)
    assert run.data.metrics == {"good": 1.0} and run.data.tags["t"] == "x"
    assert capsys.readouterr().err.startswith("! 'b?d' in MLflow is left out: ")


def test_deleted_experiment_is_restored_with_a_word(home, capsys):
    deleted = track(home, "gone")
    deleted.client.delete_experiment(deleted.experiment_id)
    tracker = track(home, "gone")
    assert tracker.experiment_id == deleted.experiment_id
    assert "experiment gone was deleted; it is restored" in capsys.readouterr().err
    build(tracker, read("restored.txt"))


def test_renamed_experiment_keeps_its_runs(home):
    tracker = track(home, "before")
    dataset = build(tracker, read("renamed.txt"))
    tracker.client.rename_experiment(tracker.experiment_id, "after")
    again = track(home, "before")
    assert again.experiment_id != tracker.experiment_id
    again.reuse_step(read("renamed.txt"), dataset)
    assert not again.client.search_runs([again.experiment_id])


@pytest.mark.parametrize("loss", ["run", "database"])
def test_lost_run_is_logged_again_from_the_manifest_once(home, tmp_path, loss):
    without_it = copy_of(home, tmp_path / "home")
    tracker, step = track(home, f"lost {loss}"), read(f"{loss}.txt")
    dataset = build(tracker, step)
    tracker.client.delete_run(dataset.manifest.built["mlflow_run_id"])
    if loss == "database":
        home = without_it
        shutil.copytree(dataset.folder, home.path / "data" / dataset.ref.key)
    for _ in range(2):
        tracker = track(home, f"lost {loss}")
        tracker.reuse_step(step, dataset)
        (run,) = tracker.client.search_runs([tracker.experiment_id])
        assert run.info.status == "FINISHED" and run.data.metrics["documents"] == 3
        assert run.data.params == {"uri": f"{loss}.txt"}
        assert {file.path for file in tracker.client.list_artifacts(run.info.run_id)} == {"manifest.json"}


@pytest.mark.parametrize("name", ["plain", "a b#é"])
def test_copied_home_has_its_artifacts_to_itself(home, tmp_path, capsys, name):
    original = copy_of(home, tmp_path / "original")
    tracker = track(original, "copied")
    interrupted = tracker.open_step(read("interrupted.txt"), {}).run_id
    old = build(tracker, read("old.txt")).manifest.built["mlflow_run_id"]
    before = sorted(original.path.rglob("*"))
    copied = copy_of(original, tmp_path / name)
    capsys.readouterr()
    tracker = track(copied, "copied")
    assert f"moved or copied here from {original.path}" in capsys.readouterr().err
    new = build(tracker, read("new.txt")).manifest.built["mlflow_run_id"]
    assert tracker.open_step(read("interrupted.txt"), {}).run_id == interrupted
    assert sorted(original.path.rglob("*")) == before
    for run_id in (old, new):
        assert tracker.client.get_run(run_id).info.artifact_uri.startswith(copied.artifacts.as_uri())
        assert tracker.client.list_artifacts(run_id)
    track(copied, "copied")
    assert "moved" not in capsys.readouterr().err


def curve(tracker, run_id):
    return sorted((point.step, point.value) for point in tracker.client.get_metric_history(run_id, "train/loss"))


def test_flow_run_has_the_curve_of_its_training_once_and_complete(home, monkeypatch):
    for name, answer in (("register_model", None), ("registered_version", None)):
        monkeypatch.setattr(f"flows.tracking.tracker.{name}", lambda *arguments, answer=answer: answer)
    pretrain = StepType("pretrain", "model", 1, Config, lambda: {}).using("wiki", Config(), {})
    sources = {"sources": [{"uri": "x.txt"}]}
    config = RunConfig(name="wiki", ingest=sources)
    killed, resumed, reused = (track(home, "wiki") for _ in range(3))

    def train(tracker, steps):
        run = tracker.open_step(pretrain, {})
        for step in steps:
            run.metrics(step, {"train/loss": 1 / step})
        run.flush()
        return run

    with pytest.raises(Stopped), killed.flow_run(config, {}, Label(note="A first try.")):
        train(killed, (1, 2, 3)).end(Stopped("stopped"))
        raise Stopped("stopped by hand")
    with resumed.flow_run(config, {}):
        run = train(resumed, (2, 3, 4, 5))  # the resumed training repeats what was after its checkpoint
        run.deliver()
        built_by = {"mlflow_run_id": run.run_id, "seconds": 1.0}
        numbers = {"best_val_loss": 0.2, "parameters": 9, "steps": 5, "tokens_trained": 80}
        made = home.store.build(pretrain, lambda out, scratch: numbers, built_by=built_by)
        resumed.finish_step(run.run_id, made, {})
    changed = RunConfig(name="wiki", ingest=sources, pretrain={"seed": 7})
    label = Label(tags=("sweep=lr", "baseline"), overrides=("pretrain.seed=7",))
    with reused.flow_run(changed, {}, label):
        reused.reuse_step(pretrain, made)

    whole = [(step, 1 / step) for step in range(1, 6)]
    assert curve(killed, killed.parent) == whole[:3]
    assert curve(resumed, resumed.parent) == curve(resumed, run.run_id) == curve(reused, reused.parent) == whole
    first, last = (each.client.get_run(each.parent) for each in (killed, reused))
    note = first.data.tags["mlflow.note.content"]
    assert note.startswith("**Stopped:** stopped by hand") and "A first try." in note
    assert last.info.run_name == "wiki · seed=7" and last.data.metrics["best_val_loss"] == 0.2
    assert last.data.params["seed"] == last.data.params["pretrain.seed"] == "7"
    tags = {"sweep": "lr", "baseline": "true", "tokenmill.set": "pretrain.seed=7"}
    tags |= {"tokenmill.differs": "pretrain.seed: 0 → 7", "mlflow.user": getpass.getuser()}
    assert tags.items() <= last.data.tags.items()
    view = reused.client.get_experiment(reused.experiment_id).tags["mlflow.sharedViewState.tokenmill"]
    columns = json.loads(json.loads(view)["state"])["selectedColumns"]
    assert {"params.`seed`", "metrics.`test/bits_per_byte`"} <= {*columns}
