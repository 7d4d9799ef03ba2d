"""Which files of a folder are a source, and what a source never is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from corpora import documents, rejected

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.sources import label_of, list_files
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"the text of {name}")
    return root


def names(uri: str | Path) -> list[str]:
    return [file.name for file in list_files(str(uri))[0]]


def skipped(uri: str | Path) -> dict[str, str]:
    return {each.name: each.reason for each in list_files(str(uri))[1]}


# What tokenmill keeps


@pytest.fixture
def home(tmp_path: Path, build: Build) -> Path:
    """Return a home with texts in its data folder, a corpus made of them, and files of MLflow and of our servers."""
    write(tmp_path, "data/a.txt", "data/b.txt", "mlruns/artifacts/run/model.txt", ".tokenmill/logs/server.txt")
    (tmp_path / "run.toml").write_text('name = "mine"\n[[ingest.sources]]\nuri = "."\n')
    build(INGEST, {"sources": [{"uri": str(tmp_path / "data")}]})
    return tmp_path


@pytest.mark.parametrize("uri", ["data", ".", "**", "data/**/*.*", "../{home}/d*/**"])
def test_published_data_is_left_out_of_sources(home: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.chdir(home)
    found = names(uri.format(home=home.name))
    assert found and {Path(name).name for name in found} <= {"a.txt", "b.txt"}


def test_same_config_gives_the_same_corpus_each_time(home: Path, build: Build, warnings: Any) -> None:
    config = {"sources": [{"uri": str(home / "data")}]}
    for partition_bytes in (1000, 2000, 3000):
        corpus = build(INGEST, config | {"partition_bytes": partition_bytes})
        assert len(documents(corpus)) == 2 and rejected(corpus) == []
    assert any(": left out corpus/test-" in sentence for sentence in warnings.sentences)


@pytest.mark.parametrize(
    "uri",
    ["data/corpus", "mlruns", "mlruns/artifacts/run/model.txt", ".tokenmill", "link", "data/corpus/*/documents/*"],
)
def test_source_that_is_published_data_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.chdir(home)
    (home / "link").symlink_to(next((home / "data/corpus").iterdir()))
    with pytest.raises(InputError, match="kept by tokenmill"):
        list_files(uri)


def test_link_to_published_file_is_left_out(home: Path) -> None:
    (home / "data/part.parquet").symlink_to(next((home / "data/corpus").glob("*/documents/*")))
    assert names(home / "data") == ["a.txt", "b.txt"]


def test_bucket_of_datasets_is_no_source(tmp_path: Path) -> None:
    own = [
        "manifests/corpus/mine-0123456789ab.json",
        f"files/{'0' * 64}",
        "data/corpus/mine-0123456789ab/documents/a.txt",
    ]
    fsspec.filesystem("memory").pipe({f"/store/{name}": b"text" for name in [*own, "a.txt", "corpus/b.txt"]})
    assert names("memory://store") == ["a.txt", "corpus/b.txt"]
    assert names(write(tmp_path, *own[:2], "a.txt")) == ["a.txt"]


# Code, caches and the Hub


def test_folder_of_code_is_read_without_what_machines_made(tmp_path: Path, build: Build) -> None:
    kept = ["src/main.py", "src/build/plan.py", "web/app.js", "README.md"]
    made = [
        "node_modules/x/index.js",
        "src/__pycache__/main.cpython-311.pyc",
        "env/pyvenv.cfg",
        "env/lib/a.py",
        "build/out.js",
    ]
    more = ["web/app.min.js", "package-lock.json", "cache/CACHEDIR.TAG", "cache/a.py", ".git/config", "package.json"]
    write(tmp_path / "code", *kept, *made, *more)
    (tmp_path / "code/logo.png").write_bytes(b"\x89PNG\r\n\0\0")
    (tmp_path / "code/data.txt").write_bytes(bytes(range(256)) * 9)
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "code")}]})
    assert {row["location"].partition(" ")[0] for row in documents(corpus)} == {*kept}
    reasons = {row["location"].partition(" ")[0]: row["reason"] for row in rejected(corpus)}
    assert (
        reasons.items()
        >= {
            "node_modules": "installed packages",
            "env": "installed packages",
            "build": "built code",
            "src/__pycache__": "compiled code",
            "cache": "a cache",
            "web/app.min.js": "minified code",
            "package-lock.json": "a list of installed packages",
            "logo.png": "no reader for .png",
        }.items()
        and "data.txt" in reasons
    )


def test_files_of_the_hubs_cache_are_read_by_their_names(tmp_path: Path) -> None:
    repository = write(tmp_path, "hub/datasets--x--y/blobs/0123") / "hub/datasets--x--y"
    (repository / "snapshots/abc/data").mkdir(parents=True)
    (repository / "snapshots/abc/data/train.txt").symlink_to("../../../blobs/0123")
    (repository / "snapshots/abc/secret.txt").symlink_to(write(tmp_path, "secret") / "secret")
    write(repository, "refs/main")
    assert names(repository / "snapshots/abc") == ["data/train.txt"]
    assert names(repository / "snapshots/abc/data/*.txt") == ["train.txt"]
    assert names(tmp_path / "hub") == ["datasets--x--y/snapshots/abc/data/train.txt"]
    assert skipped(repository / "snapshots/abc") == {"secret.txt": "a link that leaves the folder"}


# Names


@pytest.mark.parametrize("before", ["file://", "file://localhost", "file:"])
def test_file_addresses_are_decoded(tmp_path: Path, before: str) -> None:
    write(tmp_path, "my texts/a b.txt", "100%20/c.txt")
    uri = f"{before}{tmp_path!s}/my%20texts/a%20b.txt"
    assert names(uri) == ["a b.txt"] and label_of(uri) == "a b.txt"
    assert names(f"{before}{tmp_path}/my%20texts/*.txt") == ["a b.txt"]
    assert names(f"{before}{tmp_path}/100%20/c.txt") == ["c.txt"]


def test_home_folder_is_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write(tmp_path, "texts/a.txt")))
    assert names("~/texts") == names("~/texts/*.txt") == names("~/texts/a.txt") == ["a.txt"]


def test_names_with_the_letters_of_a_glob_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, "a[1].txt", "a1.txt", "b[2]/c.txt", "what?.txt"))
    assert names("a[1].txt") == ["a[1].txt"] and names("what?.txt") == ["what?.txt"]
    assert names("b[2]/*.txt") == ["c.txt"] and names("a[0-9].txt") == ["a1.txt"]
    fsspec.filesystem("memory").pipe({"/odd/a[1].txt": b"a", "/odd/a1.txt": b"b"})
    assert names("memory://odd/a[1].txt") == ["a[1].txt"]


def test_folders_may_be_named_like_files(tmp_path: Path) -> None:
    write(tmp_path, "notes.txt/a.md", "notes.txt/old.csv/b.txt", "notes.txt/C.TXT")
    assert names(tmp_path / "notes.txt") == names(f"{tmp_path}/notes.txt/") == ["C.TXT", "a.md", "old.csv/b.txt"]


@pytest.mark.parametrize("uri", ["", "  ", "file://", "file://localhost"])
def test_empty_address_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="it should be a file, a folder"):
        SourceConfig(uri=uri)


def test_empty_file_costs_only_itself(tmp_path: Path, build: Build) -> None:
    for name in ("empty.txt", "empty.jsonl", "empty.csv", "empty.parquet", "empty.html", "empty.json"):
        (write(tmp_path, "texts/a.txt") / "texts" / name).write_bytes(b"")
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "texts")}]})
    assert [row["location"] for row in documents(corpus)] == ["a.txt line 1"]


def test_unusable_source_is_an_error_beside_one_of_its_name(tmp_path: Path, build: Build) -> None:
    write(tmp_path, "good/texts/a.txt")
    (tmp_path / "bad/texts").mkdir(parents=True)
    (tmp_path / "bad/texts/a.jsonl").write_text(json.dumps({"body": "a text"}) + "\n")
    sources = [{"uri": str(tmp_path / name / "texts")} for name in ("good", "bad")]
    with pytest.raises(
        InputError, match=r"bad/texts\) has no usable document; the first problem: a\.jsonl line 1: no column"
    ):
        build(INGEST, {"sources": sources})
