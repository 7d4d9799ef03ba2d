"""A corpus that grew: only what is new is read and encoded, and the bytes are those of starting over."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from examples import step

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.ingest.partitions import Piece, known_partitions
from pipelines.corpus.ingest.texts import read_texts
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens import tokenize
from pipelines.tokens.tokenize import TOKENIZE, _previous_shards

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class WorkAfter(StepContext):
    previous: Dataset | None = None


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, "n": len(text)}) + "\n" for text in texts))


def spy_on_reading(monkeypatch: pytest.MonkeyPatch, spy: Callable[[Piece], None]) -> None:
    monkeypatch.setattr(
        "pipelines.corpus.ingest.texts.read_texts", lambda piece, *opened: spy(piece) or read_texts(piece, *opened)
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rng = random.Random(0)
    for i in range(20):
        words = [f"{i} {j} " + " ".join(rng.choices(["the", "mill", "grinds", "well"], k=30)) for j in range(5)]
        repeated = ["seen everywhere"] if i % 3 == 0 else []
        write(tmp_path / f"texts/{i:02d}.jsonl", [*words, *repeated, "" if i % 4 == 0 else "x" * i])
    return tmp_path / "texts"


def build(
    store: Store, type_: StepType, config: dict[str, Any], previous: Dataset | None = None, **inputs: Dataset
) -> Dataset:
    step = type_.using("test", type_.config(**config), inputs)

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        return type_.run(inputs, step.config, out, WorkAfter(scratch, previous=previous))

    return store.build(step, run)


CHANGES: dict[str, Callable[[Path], None]] = {
    "a new file": lambda root: write(root / "14b.jsonl", ["new here", "seen everywhere"]),
    "a file less": lambda root: (root / "07.jsonl").unlink(),
    "an edited file": lambda root: write(root / "12.jsonl", ["edited"]),
    "an earlier duplicate": lambda root: write(root / "00.jsonl", ["2 1 nothing", "x" * 15, "seen everywhere"]),
    "a duplicate less": lambda root: write(root / "00.jsonl", ["nothing left of it"]),
    "nothing but a touch": lambda root: (root / "03.jsonl").touch(),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with rules and near duplicates": {"keep": ["n_words >= 2"], "near_duplicates": 0.9, "clean": ["whitespace"]},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("change", CHANGES)
def test_grown_corpus_has_the_bytes_of_a_fresh_one(
    tmp_path: Path, texts: Path, change: str, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"uri": str(texts), "metadata": ["n"]}
    config = {"sources": [source], "partition_bytes": 2500, **SETTINGS[settings]}
    store = Store(tmp_path / "data")
    old = build(store, INGEST, config)
    CHANGES[change](texts)

    read: list[str] = []
    spy_on_reading(monkeypatch, lambda piece: read.append(piece.file.name))
    new = build(store, INGEST, config, previous=old)
    assert len(read) < 15
    over = build(Store(tmp_path / "fresh"), INGEST, config)
    assert new.manifest.files == over.manifest.files
    assert (new.ref == old.ref) == (change == "nothing but a touch")


def test_only_new_parts_are_encoded_again(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"sources": [{"uri": str(texts)}], "partition_bytes": 2500}
    store = Store(tmp_path / "data")
    old = build(store, INGEST, config)
    old_tokens = build(store, TOKENIZE, {"encoding": "gpt2"}, corpus=old)
    write(texts / "14b.jsonl", ["new here", "seen everywhere"])
    new = build(store, INGEST, config, previous=old)
    encoded: list[int] = []
    real = tokenize.read_batches
    monkeypatch.setattr(tokenize, "read_batches", lambda *args: encoded.append(1) or real(*args))
    new_tokens = build(store, TOKENIZE, {"encoding": "gpt2"}, previous=old_tokens, corpus=new)
    n_encoded = len(encoded)
    over = build(Store(tmp_path / "fresh"), TOKENIZE, {"encoding": "gpt2"}, corpus=new)
    assert new_tokens.manifest.files == over.manifest.files
    assert n_encoded < (len(encoded) - n_encoded) / 2


def test_unchanged_parts_are_shared_on_disk(tmp_path: Path, texts: Path) -> None:
    config = {"sources": [{"uri": str(texts)}], "partition_bytes": 2500}
    store = Store(tmp_path / "data")
    old = build(store, INGEST, config)
    tokens = build(store, TOKENIZE, {"encoding": "gpt2"}, corpus=old)
    write(texts / "99.jsonl", ["new here"])
    new = build(store, INGEST, config, previous=old)
    new_tokens = build(store, TOKENIZE, {"encoding": "gpt2"}, previous=tokens, corpus=new)
    for before, after, folder in ((old, new, "documents"), (tokens, new_tokens, ".")):
        here, there = (
            {path.stat().st_ino for path in (one.path / folder).iterdir() if path.suffix in (".parquet", ".arrow")}
            for one in (before, after)
        )
        assert len(here & there) >= len(here) - 3
    assert new.manifest.statistics["parts_shared"] >= new.manifest.statistics["parts"] - 2
    store.remove(old)
    assert not store.verify(new)


def test_lines_appended_to_a_file_leave_earlier_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    write(path, [f"text number {i}" for i in range(1000)])
    config = {"sources": [{"uri": str(path)}], "partition_bytes": 4000}
    store = Store(tmp_path / "data")
    old = build(store, INGEST, config)
    with path.open("a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    read: list[int] = []
    spy_on_reading(monkeypatch, lambda piece: read.append(piece.start))
    new = build(store, INGEST, config, previous=old)
    assert len(read) == 1 and new.manifest.statistics["documents"] == 1001


def test_other_config_reads_everything_again(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "data")
    source = SourceConfig(uri=str(texts))
    old = build(store, INGEST, {"sources": [source], "partition_bytes": 2500})
    read: list[str] = []
    spy_on_reading(monkeypatch, lambda piece: read.append(piece.file.name))
    build(store, INGEST, {"sources": [source], "partition_bytes": 2500, "clean": ["whitespace"]}, previous=old)
    assert len(read) == 20


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damaged_version_is_not_reused(tmp_path: Path, texts: Path, damage: str) -> None:
    config = {"sources": [{"uri": str(texts)}], "partition_bytes": 2500}
    store = Store(tmp_path / "data")
    old = build(store, INGEST, config)
    old_tokens = build(store, TOKENIZE, {"encoding": "gpt2"}, corpus=old)
    write(texts / "99.jsonl", ["new here"])
    fresh = Store(tmp_path / "fresh")
    over = build(fresh, INGEST, config)
    over_tokens = build(fresh, TOKENIZE, {"encoding": "gpt2"}, corpus=over)
    for path in (old.path / "documents/part-00000.parquet", old_tokens.path / "tokens-00000.arrow"):
        if damage == "missing":
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    new = build(store, INGEST, config, previous=old)
    new_tokens = build(store, TOKENIZE, {"encoding": "gpt2"}, previous=old_tokens, corpus=new)
    assert new.manifest.files == over.manifest.files and new_tokens.manifest.files == over_tokens.manifest.files


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "other.arrow", "..", 1, None, {}])
def test_previous_version_that_names_foreign_files_is_not_used(tmp_path: Path, name: Any) -> None:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        (out / "parts.json").write_text(json.dumps([["key", [[name, "train", 1, 1, 1]]]]))
        (out / "partitions.json").write_text(json.dumps([["key", [{"number": name}]]]))
        return {}

    warned: list[str] = []
    listener = Listener()
    listener.warn = warned.append  # type: ignore[method-assign]
    previous = Store(tmp_path).build(step(), run)
    work = StepContext(tmp_path, listener, previous=previous)
    assert _previous_shards(work) == known_partitions(work) == {}
    assert len(warned) == 2 and all("nothing is taken from it" in sentence for sentence in warned)


def test_guesses_about_earlier_files_are_reported_again(tmp_path: Path, texts: Path) -> None:
    (texts / "05.txt").write_bytes("Déjà vu à Nîmes".encode("cp1252"))
    config = {"sources": [{"uri": str(texts)}], "partition_bytes": 2500}
    store = Store(tmp_path / "data")
    old = build(store, INGEST, config)
    write(texts / "99.jsonl", ["new here"])
    new, over = build(store, INGEST, config, previous=old), build(Store(tmp_path / "fresh"), INGEST, config)
    assert new.manifest.files == over.manifest.files and new.manifest.statistics["parts_shared"]
    assert new.manifest.statistics["guessed_encoding_cp1252"] == 1
    assert json.loads(new.file("partitions.json").read_text()) == json.loads(over.file("partitions.json").read_text())
