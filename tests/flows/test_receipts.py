"""A receipt answers for a run that would do nothing, and for no other."""

import os
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flows.home import Home
from flows.receipts import Receipt
from flows.summary import Outcome
from gpt.config import Config
from pipelines import registry
from pipelines.registry import ModelVersion
from pipelines.step import StepType

TOML = 'name = "x"\n[[ingest.sources]]\nuri = "{folder}/*.txt"\n[finetune.a]\ntemplate = "{folder}/template.toml"\n'
CHAMPION = ModelVersion("x", 2, ("champion",), {}, datetime.now(UTC))


class Empty(Config):
    """Says nothing."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("TOKENMILL_DATA", raising=False)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("In the beginning")
    (tmp_path / "texts" / "template.toml").write_text("x = 1")
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").touch()
    monkeypatch.setattr(registry, "registered", lambda uri: [CHAMPION])
    (tmp_path / "x.toml").write_text(TOML.format(folder=tmp_path / "texts"))
    return Home(tmp_path)


@pytest.fixture
def made(home):
    """What a run made, for which a receipt is written."""
    step = StepType("step", "things", 1, Empty, run=lambda: {}).using("x", Empty())
    dataset = home.store.build(step, lambda out, scratch: {"files": 0})
    outcomes = [Outcome("step", dataset, 1.0, False), Outcome("gate", dataset, 1.0, False, "it stays")]
    receipt(home).write("x", outcomes)
    return outcomes


def receipt(home, flow="run", overrides=("a.b=1", "size=pico")):
    return Receipt(home, flow, home.path / "x.toml", overrides)


def test_the_same_again_is_answered(home, made):
    name, outcomes = receipt(home).read()
    assert name == "x"
    assert [(o.step, o.dataset.ref, o.reused, o.said) for o in outcomes] == [
        (o.step, o.dataset.ref, True, o.said) for o in made
    ]


@pytest.mark.parametrize(
    "change",
    {
        "a source changes": lambda home, made: (home.path / "texts" / "a.txt").write_text("In the end"),
        "a source is touched": lambda home, made: os.utime(home.path / "texts" / "a.txt", (1, 1)),
        "a source is new": lambda home, made: (home.path / "texts" / "b.txt").touch(),
        "a source is gone": lambda home, made: (home.path / "texts" / "a.txt").unlink(),
        "a named file changes": lambda home, made: (home.path / "texts" / "template.toml").write_text("x = 10"),
        "the config changes": lambda home, made: (home.path / "x.toml").write_text(
            TOML.format(folder=home.path / "texts") + "[sample]\n"
        ),
        "it goes on from a champion": lambda home, made: (home.path / "x.toml").write_text(
            'name = "x"\nbase = "champion"'
        ),
        "the config is gone": lambda home, made: (home.path / "x.toml").unlink(),
        "a result is gone": lambda home, made: home.store.remove(made[0].dataset),
        "MLflow's database is gone": lambda home, made: (home.path / "mlruns" / "mlflow.db").unlink(),
        "the receipt is damaged": lambda home, made: next(home.path.glob(".tokenmill/receipts/*")).write_text(
            '["x", [1'
        ),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_may_come_to_something_else_is_not(home, made, change):
    change[1](home, made)
    again = receipt(home)
    assert again.read() == ("", [])
    if "champion" in change[0]:
        again.write("x", made)
        assert receipt(home).read() == ("", [])


@pytest.mark.parametrize("asked", [{"flow": "evaluate"}, {"overrides": ()}, {"overrides": ("a.b=2", "size=pico")}])
def test_asking_for_something_else_is_not(home, made, asked):
    assert receipt(home, **asked).read() == ("", [])


def test_another_folder_or_mlflow_is_not(home, made, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert receipt(home).read() == ("", [])
    assert receipt(home).read()[1]
    monkeypatch.chdir(tmp_path)
    assert receipt(home).read() == ("", [])


def test_once_somebody_has_moved_a_champion_the_run_is_looked_at_again(home, made, monkeypatch):
    monkeypatch.setattr(registry, "registered", lambda uri: [replace(CHAMPION, version=1)])
    assert receipt(home).read() == ("", [])


def test_a_run_that_goes_on_from_a_champion_gets_no_receipt(home, made):
    again = receipt(home, overrides=("base=champion",))
    again.write("x", made)
    assert again.read() == ("", [])
