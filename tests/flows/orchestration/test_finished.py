"""A finished run is found without Prefect and MLflow; a run with anything left to do is not."""

import sqlite3
import time
from contextlib import closing
from types import SimpleNamespace

import pytest

import pipelines.chain
from flows.home import Home
from flows.orchestration import finished
from flows.orchestration.finished import find_finished, is_evaluated
from gpt.config import Config
from pipelines.chain import Evaluated, report_on
from pipelines.config import RunConfig
from pipelines.evaluation.promotion import PromoteConfig
from pipelines.store.step import StepType

TABLES = """
    CREATE TABLE experiments (experiment_id, name, artifact_location);
    CREATE TABLE runs (run_uuid, experiment_id, status, start_time, lifecycle_stage);
    CREATE TABLE tags (run_uuid, key, value);
    CREATE TABLE model_versions (name, version, creation_time, current_stage);
    CREATE TABLE model_version_tags (name, version, key, value);
    CREATE TABLE registered_model_aliases (name, version, alias);
    CREATE TABLE registered_model_tags (name, key, value);
"""


class Text(Config):
    text: str = "a"


CORPUS = StepType("read", "corpus", 1, Text, lambda: {})
MODEL = StepType("train", "model", 1, Text, lambda: {})
EVALUATION = StepType("judge", "evaluation", 1, Text, lambda: {})


def chain(perform, config, until, base=None, check=False):
    """A short one."""
    corpus = perform(CORPUS.using("x", Text()))
    if until == "ingest":
        return []
    model = base.model if base else perform(MODEL.using("x", Text(), {"corpus": corpus}))
    evaluation = EVALUATION.using("x", Text(), {"model": model})
    return [Evaluated(evaluation, perform(evaluation))]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A home with a finished run, MLflow's database, and the published datasets."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("TOKENMILL_DATA", raising=False)
    monkeypatch.setattr(finished, "chain", chain)
    monkeypatch.setattr(pipelines.chain, "chain", chain)
    home = Home(tmp_path)
    (tmp_path / "mlruns").mkdir()
    datasets = []

    def publish(step):
        def run(out, scratch):
            (out / "file").write_text(step.type.name)
            return {"task": "language"}

        datasets.append(home.store.build(step, run, built_by={"mlflow_run_id": f"run of {step.type.kind}"}))
        return datasets[-1]

    for until in ("evaluate", "ingest"):
        datasets.clear()
        publish(report_on(CONFIG, datasets, chain(publish, None, until)))
        if until == "evaluate":
            model, kept = datasets[1], list(datasets)
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as database:
        database.executescript(TABLES)
        database.execute("INSERT INTO experiments VALUES (0, 'Default', ?), (1, 'x', '')", [f"{home.artifacts}/0"])
        runs = [("flow", "flow"), *((f"run of {each.ref.kind}", each.ref.kind) for each in kept)]
        for number, (run_id, kind) in enumerate(runs):
            database.execute("INSERT INTO runs VALUES (?, 1, 'FINISHED', ?, 'active')", (run_id, number))
            tags = [(run_id, "tokenmill.kind", kind), (run_id, "tokenmill.home", home.label)]
            database.executemany("INSERT INTO tags VALUES (?, ?, ?)", tags)
        database.execute("INSERT INTO model_versions VALUES ('x', 1, 0, 'None')")
        version = {
            "tokenmill.fingerprint": model.ref.fingerprint,
            "tokenmill.decision": "promoted",
            "tokenmill.why": "The first.",
        }
        database.executemany("INSERT INTO model_version_tags VALUES ('x', 1, ?, ?)", version.items())
        database.execute("INSERT INTO registered_model_aliases VALUES ('x', 1, 'champion')")
        database.commit()
    return SimpleNamespace(home=home, datasets=kept)


CONFIG = RunConfig.model_validate({"name": "x", "ingest": {"sources": [{"uri": "nowhere"}]}})


def change(home, statement):
    with closing(sqlite3.connect(home.path / "mlruns" / "mlflow.db")) as database:
        database.execute(statement)
        database.commit()


def test_finished_run_is_found_in_the_order_of_the_chain(made, capsys):
    outcomes = find_finished(CONFIG, "evaluate", made.home)
    assert [outcome.step for outcome in outcomes] == ["read", "train", "judge", "report", "promote"]
    assert [outcome.dataset for outcome in outcomes[:4]] == made.datasets
    assert outcomes[-1].summary == "x/1 promoted. The first." and all(outcome.reused for outcome in outcomes)
    assert [outcome.step for outcome in find_finished(CONFIG, "ingest", made.home)] == ["read", "report"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "what",
    {
        "a result is gone": lambda made: made.home.store.remove(made.datasets[0]),
        "the report is gone": lambda made: made.home.store.remove(made.datasets[-1]),
        "MLflow's database is gone": lambda made: (made.home.path / "mlruns" / "mlflow.db").unlink(),
        "MLflow does not know a step's end": lambda made: change(
            made.home, "UPDATE runs SET status = 'KILLED' WHERE run_uuid = 'run of corpus'"
        ),
        "the home was moved": lambda made: change(
            made.home, "UPDATE experiments SET artifact_location = '/mnt/mlruns/artifacts/0' WHERE name = 'Default'"
        ),
        "a run died": lambda made: change(made.home, "INSERT INTO runs SELECT 'dead', 1, 'RUNNING', -1, 'active'"),
        "the last flow failed": lambda made: change(
            made.home, "UPDATE runs SET status = 'FAILED' WHERE run_uuid = 'flow'"
        ),
        "a model is not registered": lambda made: change(made.home, "DELETE FROM model_versions"),
        "nothing is decided": lambda made: change(
            made.home, "DELETE FROM model_version_tags WHERE key = 'tokenmill.decision'"
        ),
        "Prefect does not know a flow's end": lambda made: (made.home.store.root / ".locks" / "flow-1.lock").touch(),
    }.items(),
    ids=lambda item: item[0],
)
def test_run_with_anything_left_to_do_is_not_finished(made, what):
    what[1](made)
    if what[0] == "a run died":
        change(made.home, f"INSERT INTO tags VALUES ('dead', 'tokenmill.home', '{made.home.label}')")
    assert find_finished(CONFIG, "evaluate", made.home) == []


def test_model_that_was_taken_back_waits_for_no_champion(made):
    change(made.home, "DELETE FROM registered_model_aliases")
    change(made.home, "UPDATE model_version_tags SET value = 'rolled back' WHERE key = 'tokenmill.decision'")
    assert len(find_finished(CONFIG, "evaluate", made.home)) == 5


def test_disabled_gate_leaves_nothing_to_decide(made):
    change(made.home, "DELETE FROM model_version_tags WHERE key = 'tokenmill.decision'")
    disabled = CONFIG.model_copy(update={"promote": PromoteConfig(enabled=False)})
    assert find_finished(disabled, "evaluate", made.home)[-1].summary.startswith("x/1 not decided: promote.enabled")


def test_runs_of_another_home_do_not_matter(made):
    change(made.home, "INSERT INTO runs SELECT 'theirs', 1, 'RUNNING', 99, 'active'")
    change(made.home, "INSERT INTO tags VALUES ('theirs', 'tokenmill.home', 'elsewhere')")
    assert len(find_finished(CONFIG, "evaluate", made.home)) == 5


YEAR = 365 * 86_400_000


@pytest.mark.parametrize("status", ["KILLED", "FAILED", "FINISHED"])
def test_run_of_a_clock_that_was_ahead_is_not_the_last(made, status):
    ahead = int(time.time() * 1000) + YEAR
    change(made.home, f"INSERT INTO runs SELECT 'ahead', 1, '{status}', {ahead}, 'active'")
    change(made.home, "INSERT INTO tags VALUES ('ahead', 'tokenmill.kind', 'flow')")
    assert len(find_finished(CONFIG, "evaluate", made.home)) == 5
    change(made.home, "UPDATE runs SET status = 'FAILED' WHERE run_uuid = 'flow'")
    assert find_finished(CONFIG, "evaluate", made.home) == []


def test_run_from_its_champion_is_finished_without_new_text(made):
    config = CONFIG.model_copy(update={"base": "champion"})
    assert [outcome.step for outcome in find_finished(config, "evaluate", made.home)] == [
        *("read", "judge", "report", "promote")
    ]
    change(made.home, "DELETE FROM model_versions")
    assert find_finished(config, "evaluate", made.home) == []


def test_evaluation_of_registered_models_is_finished_when_all_is_found(made):
    def evaluate(perform, home):
        evaluation = EVALUATION.using("x", Text(), {"model": made.datasets[1]})
        return [Evaluated(evaluation, perform(evaluation))]

    assert not is_evaluated(CONFIG, evaluate, made.home), "there is no report yet"
    step = report_on(CONFIG, made.datasets[2:3], evaluate(lambda step: made.datasets[2], made.home))
    made.home.store.build(step, lambda out, scratch: {})
    assert is_evaluated(CONFIG, evaluate, made.home)
    change(made.home, "UPDATE runs SET status = 'FAILED' WHERE run_uuid = 'flow'")
    assert not is_evaluated(CONFIG, evaluate, made.home)


def test_other_code_of_the_same_version_warns(made, capsys, monkeypatch):
    monkeypatch.setattr(made.home.store.__class__, "changed_code", lambda self, step, dataset: step.type is MODEL)
    assert find_finished(CONFIG, "evaluate", made.home)
    assert "other code" in capsys.readouterr().err


def test_next_run_takes_what_was_resolved_once(made):
    made.home.store.remove(made.datasets[1])
    assert find_finished(CONFIG, "evaluate", made.home) == []
    resolved = finished.take_resolved()
    assert [(step.type.name, dataset) for step, dataset in resolved] == [("read", made.datasets[0]), ("train", None)]
    assert list(finished.take_resolved()) == []
