"""A refresh with new text continues from the champion; the gate, comparisons, rollback and housekeeping follow."""

import os
import pydoc_data.topics
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.home import Home
from flows.tracking.tracker import Tracker
from pipelines.catalog.registry import registered
from pipelines.config import load_config
from pipelines.store.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    """Return a copy of the finished place after a run with more text, and the process of that run."""
    place, _ = finished
    home = tmp_path_factory.mktemp("grown") / "home"
    ignored = shutil.ignore_patterns(".tokenmill")
    shutil.copytree(place.home, home, ignore=ignored)
    config = home / "tiny.toml"
    more = config.read_text().replace(str(place.home), str(home)).replace("validation = 0.15", "validation = 0.3")
    config.write_text(more)  # so that there are enough items for a decision
    for name, text in sorted(pydoc_data.topics.topics.items())[40:55]:
        (home / "texts" / f"{name.replace('/', '-')}.txt").write_text(text[:3000])
    copy = type(place)(home, config)
    return copy, copy.tokenmill("run", str(config), "--set", "base=champion", "--set", "pretrain.steps=20")


def test_refresh_trains_from_the_champion_and_promotes_the_better_model(grown):
    place, done = grown
    store = Store(place.home / "data")
    versions = {str(each): each for each in registered(f"sqlite:///{place.home}/mlruns/mlflow.db")}
    first, second = versions["tiny/1"], versions["tiny/2"]
    model = store.open(f"tiny@{second.fingerprint}")
    assert model.manifest.inputs["base"].fingerprint == first.fingerprint
    assert second.aliases == ("champion",) and second.tags["tokenmill.against"] == "tiny/1", "it has 20 more steps"
    assert f"tiny/2 promoted. {second.tags['tokenmill.why']}" in " ".join(done.stdout.split())
    assert store.open("trial/tiny-champion").manifest.inputs["model"].fingerprint == first.fingerprint
    tried = store.open("trial/tiny").manifest.statistics["items"]
    assert tried == 11 and store.open("corpus/topics").manifest.statistics["documents_validation"] == 25
    (database,) = place.home.rglob("prefect.db")
    with sqlite3.connect(database) as connection:
        (note,) = connection.execute("select data from artifact where key = 'promotion-tiny'").fetchone()
    assert "| trial/bits_per_byte |" in note and "Challenge 1 on these items" in note and "better" in note


def test_people_compare_roll_back_and_rerun_the_gate(grown):
    place, _ = grown

    def tokenmill(*arguments):
        return place.tokenmill(*arguments, COLUMNS="200").stdout

    tokenmill("reevaluate", str(place.config))  # tiny/1 on the text that has come since
    compared = tokenmill("compare", "tiny/1", "tiny/2")
    assert "test/bits_per_byte" in compared and "better (-" in compared and "p < 0.001" in compared
    assert "no difference shown" in tokenmill("compare", "tiny-sort/1", "tiny-sort/2")
    assert "tiny/1 is the champion again" in tokenmill("rollback", "tiny", "--reason", "it rambles")
    listed = tokenmill("models", "tiny")
    assert "rolled back" in listed and "it rambles" in listed
    assert "tiny/2 is the champion now" in tokenmill("promote", "tiny/2", "--reason", "it does not")
    tokenmill("rollback", "tiny")
    place.tokenmill("promote", str(place.config), "--again")
    assert "champion" in next(line for line in tokenmill("models", "tiny").splitlines() if "tiny/2" in line)


TIDY = """
import os, shutil, signal, sys
from filelock import Timeout
from flows.home import Home

def kill(path, ignore_errors=False):
    os.remove(next(each for each in path.rglob("*") if each.is_file()))
    try:
        Home.from_environment().starting.acquire(timeout=0)
    except Timeout:  # the lock is held, so that no run begins during the deletion
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "killed":
    from flows.orchestration.housekeeping import tidy
    shutil.rmtree = kill
    tidy(Home.from_environment(), 0, False)
else:
    from flows.servers.prefect_server import prefect_server
    with prefect_server(Home.from_environment().path):
        from flows.orchestration.housekeeping import housekeeping
        print(*housekeeping(checkpoint_days=30, keep_days=0), sep="\\n")
"""


def test_housekeeping_deletes_exactly_the_listed_datasets(grown, monkeypatch):
    place, _ = grown
    home = Home(place.home)
    before = {str(each): each for each in home.store.list()}
    printed = place.tokenmill("datasets", "gc", "--keep-days", "0", "--dry-run").stdout
    chosen = {line.strip() for line in printed.splitlines() if line.startswith("  ")}
    assert chosen and chosen < before.keys() and f"Would delete {len(chosen)} datasets" in printed
    assert not [name for name in chosen if name.startswith(("corpus/", "model/tiny@"))]

    # Nothing is deleted during a run, and no run begins during a deletion.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.mlflow_uri)
    tracker = Tracker(home, "another")
    with tracker.flow_run(load_config(place.config), {}):
        done = place.tokenmill("datasets", "gc", "--keep-days", "0")
        assert "a run is going on" in done.stderr and "Deleted 0 datasets" in done.stdout
    run = tracker.flow_run(load_config(place.config), {})
    with ThreadPoolExecutor(1) as pool:
        with home.starting:
            begun = pool.submit(run.__enter__)
            with pytest.raises(TimeoutError):
                begun.result(0.5)
        begun.result(30)
        run.__exit__(None, None, None)

    # A kill during the deletion: the first dataset is gone, and all others are intact.
    environment = place.environment | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", TIDY, "killed"], env=environment).returncode == -signal.SIGKILL
    (gone,) = before.keys() - {str(each) for each in home.store.list()}
    assert gone in chosen
    assert [home.store.verify(each) for each in home.store.list()] == [[]] * (len(before) - 1)

    old, fresh, dead = (home.store.root / folder for folder in (".scratch/0a", ".scratch/0b", ".staging/0c"))
    for folder in (old, fresh, dead):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "weights").write_bytes(bytes(1000))
    for path in (old, *old.rglob("*")):
        os.utime(path, (month_ago := time.time() - 31 * 86_400, month_ago))
    done = subprocess.run(
        [sys.executable, "-c", TIDY, "flow"], env=environment, capture_output=True, text=True, check=True
    )
    deleted = set(done.stdout.split())
    assert deleted == {"0a", "0c", f"removed-{before[gone].ref.fingerprint}", *chosen - {gone}}
    assert {str(each) for each in home.store.list()} == before.keys() - chosen
    assert [home.store.verify(each) for each in home.store.list()] == [[]] * (len(before) - len(chosen))
    assert [path.name for path in home.store.root.glob(".s*/*")] == ["0b"]
