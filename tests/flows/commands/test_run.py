"""The command `run`: what ends it before it begins, what it hands to its flow, and what it shows if that fails."""

import time
from http.server import BaseHTTPRequestHandler

import pytest

from flows.commands import run as commands
from flows.commands.options import naming_a_full_disk
from flows.outcome import Outcome, new_outcomes
from flows.servers import health
from flows.servers.health import check_named
from pipelines.config import load_config
from pipelines.errors import InputError
from pipelines.store import disks
from pipelines.store.step import Stopped


def test_named_mlflow_server_that_drips_is_bad_input(serve, monkeypatch):
    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self):
            for _ in range(50):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
                time.sleep(0.1)

    monkeypatch.setattr(health, "PATIENCE", 0.2)
    port = serve(Dripping).server_port
    sentence = rf"^Nothing answers at MLFLOW_TRACKING_URI=http://127.0.0.1:{port}; start that server, or unset"
    with pytest.raises(InputError, match=sentence):
        check_named("MLFLOW_TRACKING_URI", f"http://reader:secret@127.0.0.1:{port}")


@pytest.mark.parametrize("error", [InputError("A server did not come up."), RuntimeError("status 500")])
def test_full_disk_is_named_in_place_of_what_it_broke(tmp_path, monkeypatch, error):
    with pytest.raises(type(error), match=str(error)), naming_a_full_disk(tmp_path):
        raise error
    monkeypatch.setattr(disks, "ROOM", 2**80)
    with pytest.raises(InputError, match=r"^The disk is full where"), naming_a_full_disk(tmp_path):
        raise error
    with pytest.raises(Stopped), naming_a_full_disk(tmp_path):
        raise Stopped("stopped within pretrain x")


# What comes before a run and after it


CONFIG = """
name = "mill"
[[ingest.sources]]
uri = "mills.jsonl"
[tokenize]
encoding = "characters"
[sample]
context = 16
[pretrain]
steps = 2
[pretrain.model]
size = "pico"
"""


@pytest.fixture
def mill(tmp_path, monkeypatch):
    """Return the path of a config, and the flows that were started: (name, config, parameters)."""
    for name in ("MLFLOW_TRACKING_URI", "TOKENMILL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("pipelines.forecast.seconds_per_token", lambda *_: 0.01)
    (tmp_path / "mills.jsonl").write_text("".join(f'{{"text": "this is mill {i:03d}"}}\n' for i in range(50)))
    (tmp_path / "mill.toml").write_text(CONFIG)
    started = []

    def carry_out(home, name, config, parameters):
        started.append((name, config, parameters))
        if len(started) == 1:
            return []
        new_outcomes().append(Outcome("promote", None, 1.5, False, "mill/1 promoted."))
        raise RuntimeError("the loss is not finite")

    monkeypatch.setattr(commands, "carry_out", carry_out)
    return tmp_path / "mill.toml", started


def test_dry_run_lists_the_steps_and_writes_nothing(mill, tmp_path, capsys):
    path, started = mill
    before = sorted(tmp_path.rglob("*"))
    commands.run(path, ["pretrain.steps=40"], dry_run=True)
    out = capsys.readouterr().out
    assert "40 steps of 16 x 16" in out and "0 steps reused, 6 to be made: about" in out
    assert started == [] and sorted(tmp_path.rglob("*")) == before
    assert all(len(line) <= 80 for line in out.splitlines())


def test_what_a_person_says_reaches_the_flow(mill):
    path, started = mill
    commands.run(path, ["pretrain.seed=3"], name="best", note="A try.", tag=["try", "team=b"])
    ((name, config, parameters),) = started
    assert (name, config.pretrain.seed, parameters["rebuild"]) == ("run", 3, False)
    label = parameters["label"]
    assert (label.name, label.note, label.tags) == ("best", "A try.", ("try", "team=b"))
    assert label.overrides == ("pretrain.seed=3",)
    with pytest.raises(InputError, match=r"'tags' is wrong: 'mlflow\.x' cannot be a tag"):
        commands.run(path, tag=["mlflow.x"])


def test_no_promote_overrides_the_config(mill, monkeypatch):
    path, started = mill
    asked = []
    monkeypatch.setattr(
        "pipelines.config.load_config", lambda path, overrides, warn: asked.append(overrides) or load_config(path)
    )
    commands.run(path, ["pretrain.seed=3"], no_promote=True)
    assert asked == [["pretrain.seed=3", "promote.enabled=false"]]
    assert started[0][2]["label"].overrides == ("pretrain.seed=3",), "it says nothing about the run"


def test_failed_run_shows_what_it_made(mill, capsys):
    path, started = mill
    started.append(())
    with pytest.raises(RuntimeError, match="not finite"):
        commands.run(path, ["pretrain.seed=3"])
    out = capsys.readouterr().out
    assert "mill · seed=3: 0 steps in" in out and "then it failed" in out and "mill/1 promoted." in out
    assert "Set: pretrain.seed=3" in out and "Next:" not in out


def test_missing_source_starts_no_server(mill, tmp_path):
    path, started = mill
    (tmp_path / "mills.jsonl").unlink()
    with pytest.raises(InputError, match=r"ingest\.sources\.0\.uri: .*mills\.jsonl does not exist"):
        commands.run(path)
    assert started == []
