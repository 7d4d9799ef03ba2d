"""Sources that are elsewhere: buckets of S3 and of Google's storage, a hub, a web server; all on this machine."""

from __future__ import annotations

import gzip
import json
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.documents import Corpus
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.corpus.sources import File, file_digest, list_files
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]
Serve = Callable[..., ThreadingHTTPServer]

OBJECTS = {
    "texts/a.txt": b"one",
    "texts/deep/b.jsonl": b'{"text": "two"}\n{"text": \n',
    "texts/deep/c.txt.gz": gzip.compress(b"three"),
    "texts/.hidden": b"no",
    "other/d.txt": b"four",
}


def write_objects(folder: Path) -> Path:
    for key, content in OBJECTS.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A client of an S3 server with one bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="mill")
        for key, content in OBJECTS.items():
            client.put_object(Bucket="mill", Key=key, Body=content)
        yield client
    server.stop()


def test_bucket_is_read_like_a_folder(build: Build, bucket: Any) -> None:
    corpus = Corpus(build(INGEST, {"sources": [{"uri": "s3://mill/texts"}]}))
    rows = [row for part in corpus.parts for row in read_rows(part)]
    assert [(row["location"], row["text"]) for row in rows] == [
        ("a.txt line 1", "one"),
        ("deep/b.jsonl line 1", "two"),
        ("deep/c.txt.gz line 1", "three"),
    ]
    assert [row["location"] for row in read_rows(corpus.rejected)] == ["deep/b.jsonl line 2"]
    sources = {source.name: source.bytes for source in corpus.dataset.manifest.sources}
    assert sources == {
        name: len(content) for name, content in OBJECTS.items() if name.startswith("texts/") and name[6] != "."
    }


def test_bucket_and_folder_of_equal_files_give_one_version(build: Build, bucket: Any, tmp_path: Path) -> None:
    here = build(INGEST, {"sources": [{"uri": str(write_objects(tmp_path) / "texts")}]})
    assert build(INGEST, {"sources": [{"uri": "s3://mill/texts"}]}).ref == here.ref


def test_bucket_lists_globs_and_single_objects(bucket: Any) -> None:
    assert [file.name for file in list_files("s3://mill/**/*.txt")[0]] == ["other/d.txt", "texts/a.txt"]
    (file,) = list_files("s3://mill/other/d.txt")[0]
    assert (file.name, file.open().read()) == ("d.txt", b"four")


def test_changed_object_is_an_error(bucket: Any) -> None:
    bucket.put_object(Bucket="mill", Key="changing/a.txt", Body=b"before")
    (file,) = list_files("s3://mill/changing/a.txt")[0]
    file.check_unchanged()
    bucket.put_object(Bucket="mill", Key="changing/a.txt", Body=b"behind")
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()


@pytest.mark.parametrize("uri", ["s3://nowhere/a.txt", "s3://mill/nothing", "s3://mill/**/*.pdf"])
def test_missing_object_is_one_sentence(bucket: Any, uri: str) -> None:
    with pytest.raises(InputError, match=r"does not exist|names no file") as caught:
        list_files(uri)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(uri)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a Google Cloud Storage server with the same objects in one bucket."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="mill")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google for the kind of bucket
    client = fsspec.filesystem("gs")
    for key, content in OBJECTS.items():
        client.pipe(f"mill/{key}", content)
    yield client
    server.stop()


def test_google_storage_is_read_like_a_folder(build: Build, google: Any, tmp_path: Path) -> None:
    here = build(INGEST, {"sources": [{"uri": str(write_objects(tmp_path) / "texts")}]})
    assert build(INGEST, {"sources": [{"uri": "gs://mill/texts"}]}).ref == here.ref
    assert [file.name for file in list_files("gs://mill/**/*.txt")[0]] == ["other/d.txt", "texts/a.txt"]
    with pytest.raises(InputError, match="does not exist"):
        list_files("gs://mill/nothing")
    (file,) = list_files("gs://mill/texts/a.txt")[0]
    google.pipe("mill/texts/a.txt", b"two")
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as it takes to read the dataset me/mine."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        _, found, inside = address.path.partition("/api/datasets/me/mine")
        if found and not inside:
            return self.answer({"id": "me/mine", "sha": "0" * 40})
        if inside.startswith("/tree/main"):
            folder = unquote(inside.removeprefix("/tree/main").strip("/"))
            recursive = parse_qs(address.query)["recursive"] == ["true"]
            return self.answer(self.tree(folder + "/" if folder else "", recursive))
        content = self.files.get(address.path.removeprefix("/datasets/me/mine/resolve/main/"))
        if content is None:
            return self.answer({"error": "not found"}, 404)
        start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        return self.answer(content[start : end + 1], 206)

    def tree(self, inside: str, recursive: bool) -> list[dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for path, content in self.files.items():
            if path.startswith(inside):
                parts = path.removeprefix(inside).split("/")
                for depth in range(1, len(parts)):
                    folder = inside + "/".join(parts[:depth])
                    entries[folder] = {"type": "directory", "path": folder, "oid": "1" * 40}
                oid = sha1(content, usedforsecurity=False).hexdigest()  # as git names a file
                entries[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
        return [entry for path, entry in entries.items() if recursive or "/" not in path.removeprefix(inside)]

    def answer(self, body: Any, status: int = 200) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a dataset on a hub, to be changed at will."""
    Hub.files = dict(OBJECTS)
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{serve(Hub).server_port}"})
    return Hub.files


def test_hub_dataset_is_read_like_a_folder(build: Build, hub: dict[str, bytes], tmp_path: Path) -> None:
    here = build(INGEST, {"sources": [{"uri": str(write_objects(tmp_path) / "texts")}]})
    assert build(INGEST, {"sources": [{"uri": "hf://datasets/me/mine/texts"}]}).ref == here.ref
    names = [file.name for file in list_files("hf://datasets/me/mine/**/*.txt")[0]]
    assert names == ["other/d.txt", "texts/a.txt"]
    with pytest.raises(InputError, match="does not exist"):
        list_files("hf://datasets/me/mine/nothing")
    (file,) = list_files("hf://datasets/me/mine/texts/a.txt")[0]
    hub["texts/a.txt"] = b"two"  # of the same size
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()


def test_file_without_a_state_is_hashed_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    (file,) = list_files(f"local://{path}")[0]
    silent = replace(file, state="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(File, "check_unchanged", lambda self: None)
        before = file_digest(silent)
        path.write_bytes(b"two")
        assert file_digest(silent) == sha256(b"two").hexdigest() != before


def test_file_on_a_web_server_is_read(build: Build, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "two"}\n')
    server = serve(partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    address = f"http://127.0.0.1:{server.server_port}"
    corpus = Corpus(build(INGEST, {"sources": [{"uri": f"{address}/a.jsonl"}]}))
    assert [row["text"] for part in corpus.parts for row in read_rows(part)] == ["one", "two"]
    (file,) = list_files(f"{address}/a.jsonl?download=true")[0]
    assert (file.name, file.open().readline()) == ("a.jsonl", b'{"text": "one"}\n')
    with pytest.raises(InputError, match="does not exist, or may not be read"):
        list_files(f"{address}/b.jsonl")


class SaysSo(SimpleHTTPRequestHandler):
    """Gives no part of a file either, and says so."""

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "none")
        super().end_headers()


@pytest.mark.parametrize("handler", [SimpleHTTPRequestHandler, SaysSo])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_web_server_without_ranges_is_read(
    build: Build, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, handler: Any
) -> None:
    texts = [f"{i} {sha256(str(i).encode()).hexdigest()}" for i in range(5000)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    monkeypatch.setitem(fsspec.config.conf, "http", {"block_size": 10_000})
    server = serve(partial(handler, directory=str(tmp_path)))
    corpus = Corpus(build(INGEST, {"sources": [{"uri": f"http://127.0.0.1:{server.server_port}/{name}"}]}))
    assert [row["text"] for part in corpus.parts for row in read_rows(part)] == texts


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("gs://b/x.txt", "gcsfs"),
        ("hf://datasets/a/b/x.txt", "huggingface_hub"),
        ("s3://b/x", "s3fs"),
        ("az://b/x", "adlfs"),
    ],
)
def test_missing_package_is_named(uri: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, uri.partition(":")[0], raising=False)
    with pytest.raises(InputError, match=f"install it with: pip install {package}$") as caught:
        list_files(uri)
    assert "\n" not in str(caught.value)
