"""A team's days: text comes in, training goes on from the champion, the gate decides, people compare and take back."""

import json
import pydoc_data.topics
import shutil
import sqlite3

import pytest

from pipelines.registry import registered
from pipelines.store import Store


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    """A copy of the finished place, with more text, refreshed: what it printed."""
    place, _ = finished
    home = tmp_path_factory.mktemp("grown") / "home"
    ignored = shutil.ignore_patterns(".tokenmill")
    shutil.copytree(place.home, home, ignore=ignored)
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.execute(
            "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", (str(place.home), str(home))
        )
    config = home / "tiny.toml"
    config.write_text(config.read_text().replace(str(place.home), str(home)))
    for name, text in sorted(pydoc_data.topics.topics.items())[40:55]:
        (home / "texts" / f"{name.replace('/', '-')}.txt").write_text(text[:3000])
    copy = type(place)(home, config)
    return copy, copy.tokenmill("run", str(config), "--set", "base=champion", "--set", "pretrain.steps=20")


def test_a_refresh_goes_on_from_the_champion_and_promotes_what_is_better(grown):
    place, done = grown
    store = Store(place.home / "data")
    versions = {str(each): each for each in registered(f"sqlite:///{place.home}/mlruns/mlflow.db")}
    first, second = versions["tiny/1"], versions["tiny/2"]
    model = store.open(f"tiny@{second.fingerprint}")
    assert model.manifest.inputs["base"].fingerprint == first.fingerprint
    assert json.loads(second.tags["tokenmill.inputs"])["base"]["digest"] == model.manifest.inputs["base"].digest
    assert second.aliases == ("champion",) and second.tags["tokenmill.against"] == "tiny/1", "it had 20 more steps"
    assert f"tiny/2 promoted. {second.tags['tokenmill.why']}" in " ".join(done.stdout.split())
    assert store.open("evaluation/tiny-champion").manifest.inputs["model"].fingerprint == first.fingerprint
    (database,) = place.home.rglob("prefect.db")
    with sqlite3.connect(database) as connection:
        (note,) = connection.execute("select data from artifact where key = 'promotion-tiny'").fetchone()
    assert "| test/bits_per_byte |" in note and "better" in note


def test_people_compare_take_back_and_let_the_gate_decide_again(grown):
    place, _ = grown

    def tokenmill(*arguments):
        return place.tokenmill(*arguments, COLUMNS="200").stdout

    compared = tokenmill("compare", "tiny/1", "tiny/2")
    assert "test/bits_per_byte" in compared and "better (-" in compared and "p < 0.001" in compared
    assert "no difference shown" in tokenmill("compare", "tiny-sort/1", "tiny-sort/2")
    assert "tiny/1 is the champion again" in tokenmill("rollback", "tiny", "--reason", "it rambles")
    listed = tokenmill("models", "tiny")
    assert "rolled back" in listed and "it rambles" in listed
    assert "tiny/2 is the champion now" in tokenmill("promote", "tiny/2", "--reason", "it does not")
    tokenmill("rollback", "tiny")
    place.tokenmill("promote", str(place.config), "--again")
    place.tokenmill("reevaluate", str(place.config))
    assert "champion" in next(line for line in tokenmill("models", "tiny").splitlines() if "tiny/2" in line)
    said = tokenmill("datasets", "gc", "--keep-days", "0", "--dry-run")
    assert "Would delete 0 datasets" not in said and "corpus/topics" not in said
