"""The conductor: versions that it publishes, stops between partitions, and damage that the command line names."""

import json
import os
from unittest.mock import MagicMock

import pytest
from prefect.settings import PREFECT_FLOWS_DEFAULT_RETRIES, PREFECT_TASKS_DEFAULT_RETRIES, temporary_settings
from typer.testing import CliRunner

import flows.orchestration.conductor
from flows.cli import app
from flows.flows import _our_flow
from flows.orchestration.conductor import Conductor
from flows.orchestration.progress import StepListener
from flows.orchestration.task_runners import uncached_task
from pipelines.corpus.documents import Corpus
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.step import Stopped
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig


@pytest.fixture
def published(tmp_path):
    """published() publishes a corpus of the folder `texts`, and its tokens."""
    tracker = MagicMock()
    tracker.open_step.return_value.run_id = "r"
    conductor = Conductor(Store(tmp_path / "data"), tracker, rebuild=False, should_stop=lambda: False)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("The mill grinds slowly.")
    config = IngestConfig(sources=[{"uri": str(tmp_path / "texts")}], split={"validation": 0, "test": 0})

    def publish():
        corpus = conductor._perform(INGEST.using("mill", config))
        step = TOKENIZE.using("mill", TokenizeConfig(encoding="characters"), {"corpus": corpus})
        return corpus, conductor._perform(step)

    return publish


def test_new_version_names_the_previous_one(published, tmp_path):
    first = published()
    (tmp_path / "texts/b.txt").write_text("It grinds all day.")
    second = published()
    for before, after in zip(first, second, strict=True):
        assert "previous" not in before.manifest.built and after.manifest.built["previous"] == str(before)
        assert json.loads((after.path / "manifest.json").read_text())["built"]["previous"] == str(before)


def test_step_stops_between_partitions_and_resumes_there(tmp_path, monkeypatch):
    read, shown = [], []

    def map_in_turn(function, items, when_done):
        made = []
        for item in items:
            read.extend([item.key] if not (item.folder / "done.json").exists() else [])
            made.append(function(item))
            when_done()
        return made

    monkeypatch.setattr(flows.orchestration.conductor, "map_tasks", map_in_turn)
    monkeypatch.setattr(
        StepListener, "progress", lambda self, *state: (setattr(self, "state", state), shown.append(state))
    )
    for name in "abcde":
        (tmp_path / f"{name}.txt").write_text(f"The mill grinds {name}.")
    tracker = MagicMock()
    tracker.open_step.return_value.run_id = "r"
    conductor = Conductor(Store(tmp_path / "data"), tracker, rebuild=False, should_stop=lambda: len(read) == 2)
    config = IngestConfig(sources=[{"uri": str(tmp_path / "*.txt")}], partition_bytes=1)
    with pytest.raises(Stopped, match="stopped within ingest mill; what is done of it is kept"):
        conductor._perform(INGEST.using("mill", config))
    reading = [(done, 5, "partitions", "reading") for done in range(6)]
    assert len(read) == 2 and shown == reading[:3] and not list(conductor.store.list())
    conductor.should_stop = lambda: False
    assert conductor._perform(INGEST.using("mill", config)).manifest.statistics["documents"] == 5
    assert len(read) == len(set(read)) == 5 and shown[3:9] == reading


def test_resolved_result_is_reused_without_another_look(published, tmp_path, monkeypatch):
    corpus, tokens = published()
    step = TOKENIZE.using("mill", TokenizeConfig(encoding="characters"), {"corpus": corpus})
    store = Store(tmp_path / "data")
    monkeypatch.setattr(store, "find", None)
    conductor = Conductor(store, MagicMock(), False, lambda: False, [(step, tokens)])
    again = TOKENIZE.using("mill", TokenizeConfig(encoding="characters"), {"corpus": corpus})
    assert conductor.perform(again) == tokens and [outcome.reused for outcome in conductor.done] == [True]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (flip_a_bit, "was changed: its SHA-256 is not the one in the manifest"),
        (lambda path: os.truncate(path, path.stat().st_size - 1), "bytes instead of"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
@pytest.mark.parametrize("which", ["documents/part-00000.parquet", "tokens-00000.arrow"])
def test_verify_names_the_damaged_file(published, tmp_path, monkeypatch, damage, sentence, which):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    corpus, tokens = published()
    assert CliRunner().invoke(app, ["datasets", "verify"]).stdout == "2 of 2 datasets are as they were published.\n"
    spoilt = tokens if which.startswith("tokens") else corpus
    damage(spoilt.path / which)
    done = CliRunner().invoke(app, ["datasets", "verify"])
    assert done.exit_code == 1
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{spoilt}: {which} ") and sentence in first
    assert last == "1 of 2 datasets are as they were published."


def test_verify_names_a_damaged_manifest(published, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    corpus, tokens = published()
    flip_a_bit(corpus.folder / "manifest.json")
    done = CliRunner().invoke(app, ["datasets", "verify"])
    first, last = done.stdout.splitlines()
    assert done.exit_code == 1 and first.startswith(f"{corpus.folder / 'manifest.json'} is damaged; ")
    assert last == "1 of 2 datasets are as they were published."
    done = CliRunner().invoke(app, ["datasets", "verify", str(tokens)])
    assert done.exit_code == 0 and done.stdout == f"{tokens} is as it was published.\n"


def test_damaged_input_ends_a_run_in_one_sentence(published, tmp_path):
    corpus, _ = published()
    flip_a_bit(corpus.folder / "documents" / "part-00000.parquet")
    with pytest.raises(InputError, match=r"part-00000\.parquet is damaged; see tokenmill datasets verify corpus/"):
        list(Corpus(corpus).batches())


def test_retries_of_prefects_settings_repeat_no_run():
    elsewhere = {PREFECT_FLOWS_DEFAULT_RETRIES: 2, PREFECT_TASKS_DEFAULT_RETRIES: 2}
    with temporary_settings(elsewhere):
        assert _our_flow(name="once")(lambda: None).retries == 0
        assert uncached_task(name="once")(lambda: None).retries == 0
        assert uncached_task(name="thrice", retries=2)(lambda: None).retries == 2
