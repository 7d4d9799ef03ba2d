"""`tokenmill init` writes a config for somebody's text, and the config runs to a model."""

import os
import re
import shlex
import tomllib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from somebodys_text import KINDS, write_book, write_notes
from typer.testing import CliRunner

from flows.cli import app
from pipelines.chain import chain
from pipelines.config import load_config
from pipelines.errors import InputError
from pipelines.starter.speed import Machine
from pipelines.store.step import StepContext
from pipelines.store.store import Store

TINY = ["steps=4", "batch_size=4", "threads=1", "evaluate_every=2", "checkpoint_every=100", "warmup=1"]
TINY_RUN = [*(f"pretrain.{key}" for key in TINY), "pretrain.model.layers=1", "pretrain.model.width=32"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A current folder beside the text, and a machine whose speed is known."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(Machine, "seconds_per_step", lambda *_: 0.1)
    return tmp_path


def init(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


def written(*arguments):
    """Return what is printed, and the config that `init` writes into the current folder."""
    done = init(*arguments)
    assert done.exit_code == 0, done.output + str(done.exception)
    (path,) = Path.cwd().glob("*.toml")
    return done.stdout, load_config(path)


@pytest.mark.parametrize("kind", KINDS)
def test_config_of_each_kind_of_text(kind, place):
    shown, config = written(KINDS[kind](place))
    finetuned = {name: run.task for name, run in config.finetune.items()}
    assert finetuned == {
        "reviews": {"stars": "classification"},
        "chats": {"assistant": "instruction"},
        "instructions": {"assistant": "instruction"},
        "mixture": {"stars": "classification", "assistant": "instruction"},
    }.get(kind, {})
    assert config.ingest.near_duplicates and config.sample.context >= 16
    assert "Next:\n  tokenmill run " in shown
    if kind == "code":
        assert config.ingest.clean == ()
    if kind == "notes":
        assert "picture.png" in shown


@pytest.mark.integration
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "book" else pytest.mark.slow) for kind in KINDS]
)
def test_config_runs_to_models(kind, place):
    written(KINDS[kind](place))
    (path,) = Path.cwd().glob("*.toml")
    names = tomllib.loads(path.read_text()).get("finetune", {})
    tiny = [*TINY_RUN, *(f"finetune.{name}.training.{key}" for name in names for key in TINY)]
    config, store = load_config(path, tiny), Store(place / "data")

    def perform(step):
        return store.build(step, lambda out, work: step.type.run(step.inputs, step.config, out, StepContext(work)))

    evaluated = chain(perform, config)
    assert len(evaluated) == 1 + len(config.finetune)
    assert all(each.model.file("model.safetensors").exists() for each in evaluated)


@pytest.mark.parametrize(
    "name", ['a\'b "c" \\d', "line\nbreak", "#hash = [x]", "日本語", "esc\x1b[31m", "{a,b} $HOME `id`"]
)
def test_any_name_of_a_folder_works(name, place):
    folder = place / name
    folder.mkdir()
    shown, config = written(write_notes(folder).rename(folder / name))
    assert [source.uri for source in config.ingest.sources] == [str(folder / name)]
    assert "\x1b" not in shown
    assert not list(folder.glob("**/*.toml"))


def test_config_is_printed_on_request(place):
    done = init(write_book(place), "--output", "-")
    assert tomllib.loads(done.stdout)["name"] == "book"
    assert "1 .txt" in done.stderr
    assert not list(place.glob("**/*.toml"))


def test_existing_config_is_kept(place):
    book = write_book(place)
    Path("book.toml").write_text("mine")
    done = init(book)
    assert isinstance(done.exception, InputError) and "--force" in str(done.exception)
    assert Path("book.toml").read_text() == "mine"
    assert init(book, "--force").exit_code == 0
    assert load_config("book.toml").name == "book"


def test_config_of_the_current_folder_is_beside_it(place, monkeypatch):
    notes = write_notes(place)
    monkeypatch.chdir(notes)
    done = init()
    assert done.exit_code == 0, done.exception
    assert load_config(place / "my-notes.toml").ingest.sources[0].uri == str(notes)
    assert done.stdout.endswith(f"Next:\n  cd {shlex.quote(str(place))}\n  tokenmill run my-notes.toml\n")
    assert not list(notes.glob("**/*.toml"))


def test_config_is_never_in_the_folder_of_the_text(place):
    notes = write_notes(place)
    assert "in the folder of the text" in str(init(notes, "--output", notes / "a.toml").exception)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "names no file"),
        ({"a.txt": b""}, "no text in it"),
        ({"a.txt": b"Two words."}, "too little text"),
        ({"a.bin": bytes(range(256)) * 20}, "no reader for .bin"),
        ({"a.csv": b"a,b\n1,2\n3,4\n"}, "no column of text"),
        ({"a.parquet": b"PAR1 is not enough"}, "a.parquet"),
    ],
)
def test_folder_without_text_is_one_sentence(files, problem, place):
    folder = place / "text"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    done = init(folder)
    assert isinstance(done.exception, InputError) and problem in str(done.exception)


def test_missing_folder_and_secret_are_one_sentence():
    assert "does not exist" in str(init("nowhere").exception)
    assert "password" in str(init("https://ann:secret@example.org/a.txt").exception)
    assert "not UTF-8" in str(init(os.fsdecode(b"caf\xe9")).exception)


def test_table_without_header_gets_column_names(place):
    rows = [f"{['ham', 'spam'][n % 2]}\tThis is the message number {n}, which somebody wrote.\n" for n in range(90)]
    (place / "sms.tsv").write_text("".join(rows))
    _, config = written(place / "sms.tsv")
    assert config.ingest.sources[0].columns == ("label", "text")
    assert config.finetune["label"].examples.sources[0].label == "label"


def test_legacy_encoding_is_shown(place):
    text = "Près de la rivière, le moulin tourne déjà. L'été, il est tôt à l'œuvre et fait sa farine.\n\n"
    (place / "lettre.txt").write_bytes("".join(f"{n} {text}" for n in range(60)).encode("cp1252"))
    shown, _ = written(place / "lettre.txt")
    assert "cp1252 (guessed)" in re.sub(r"\s+", " ", shown) and " fr " in shown


def test_addresses_work(place):
    _, config = written("package://pydoc_data/topics.py")
    assert (config.name, config.ingest.sources[0].uri) == ("topics", "package://pydoc_data/topics.py")
    write_book(place)
    handler = partial(SimpleHTTPRequestHandler, directory=str(place))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        done = init(uri := f"http://127.0.0.1:{server.server_port}/book.txt", "--output", "-")
        server.shutdown()
    assert tomllib.loads(done.stdout)["ingest"]["sources"][0]["uri"] == uri
