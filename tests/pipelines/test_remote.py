"""Sources that are elsewhere: a bucket behind a real S3 API, and a web server, both on this machine."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.datasets import Corpus
from pipelines.errors import InputError
from pipelines.ingest import INGEST
from pipelines.sources import list_files
from pipelines.store import Dataset
from pipelines.tables import read_rows

Build = Callable[..., Dataset]

OBJECTS = {
    "texts/a.txt": b"one",
    "texts/deep/b.jsonl": b'{"text": "two"}\n{"text": \n',
    "texts/deep/c.txt.gz": gzip.compress(b"three"),
    "texts/.hidden": b"no",
    "other/d.txt": b"four",
}


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


def test_a_bucket_is_read_like_a_folder(build: Build, bucket: Any) -> None:
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


def test_a_bucket_gives_the_same_version_as_a_folder_of_the_same_files(
    build: Build, bucket: Any, tmp_path: Path
) -> None:
    for key, content in OBJECTS.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(content)
    here = build(INGEST, {"sources": [{"uri": str(tmp_path / "texts")}]})
    assert build(INGEST, {"sources": [{"uri": "s3://mill/texts"}]}).ref == here.ref


def test_globs_and_single_objects(bucket: Any) -> None:
    assert [file.name for file in list_files("s3://mill/**/*.txt")[0]] == ["other/d.txt", "texts/a.txt"]
    (file,) = list_files("s3://mill/other/d.txt")[0]
    assert (file.name, file.open().read()) == ("d.txt", b"four")


def test_an_object_that_changes_stops_the_step(bucket: Any) -> None:
    bucket.put_object(Bucket="mill", Key="changing/a.txt", Body=b"before")
    (file,) = list_files("s3://mill/changing/a.txt")[0]
    file.check_unchanged()
    bucket.put_object(Bucket="mill", Key="changing/a.txt", Body=b"behind")
    with pytest.raises(InputError, match="changed while it was read"):
        file.open()


@pytest.mark.parametrize("uri", ["s3://nowhere/a.txt", "s3://mill/nothing", "s3://mill/**/*.pdf"])
def test_what_is_not_in_a_bucket_is_one_sentence(bucket: Any, uri: str) -> None:
    with pytest.raises(InputError, match=r"does not exist|names no file") as caught:
        list_files(uri)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(uri)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_a_file_on_the_web(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "two"}\n')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        corpus = Corpus(build(INGEST, {"sources": [{"uri": f"{address}/a.jsonl"}]}))
        assert [row["text"] for part in corpus.parts for row in read_rows(part)] == ["one", "two"]
        with pytest.raises(InputError, match="does not exist, or may not be read"):
            list_files(f"{address}/b.jsonl")
        server.shutdown()


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("gs://b/x.txt", "gcsfs"),
        ("hf://datasets/a/b/x.txt", "huggingface_hub"),
        ("s3://b/x", "s3fs"),
        ("az://b/x", "adlfs"),
    ],
)
def test_a_package_that_is_missing_is_named(uri: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, uri.partition(":")[0], raising=False)
    with pytest.raises(InputError, match=f"install it with: pip install {package}$") as caught:
        list_files(uri)
    assert "\n" not in str(caught.value)
