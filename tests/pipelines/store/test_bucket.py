"""The data root in a bucket, behind a real S3 API on this machine: what one machine publishes, another finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipelines.catalog.catalog import connect
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.bucket import Bucket
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import MANIFEST
from pipelines.store.step import Step, StepContext
from pipelines.store.store import Store
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        yield boto3.client("s3")
    server.stop()


@pytest.fixture
def address(s3: Any) -> str:
    name = f"bucket-{uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return f"s3://{name}/mill"


@pytest.fixture
def machines(address: str, tmp_path: Path) -> list[Store]:
    """Two machines that share a bucket."""
    return [Store(tmp_path / name / "data", Bucket(address)) for name in ("one", "two")]


def keys(s3: Any, address: str) -> list[str]:
    name = address.removeprefix("s3://").partition("/")[0]
    return [each["Key"] for each in s3.list_objects_v2(Bucket=name).get("Contents", [])]


def corpus_step(tmp_path: Path) -> Step:
    texts = tmp_path / "texts"
    texts.mkdir(exist_ok=True)
    for i in range(3):
        (texts / f"{i}.txt").write_text(f"The mill grinds text number {i}, slowly but well. " * 20)
    return INGEST.using("mill", INGEST.config(sources=[{"uri": str(texts)}], partition_bytes=900))


def run(store: Store, step: Step, **inputs: Dataset) -> Dataset:
    return store.build(step, lambda out, scratch: step.type.run(inputs, step.config, out, StepContext(scratch)))


def refuses(out: Path, scratch: Path) -> dict[str, Any]:
    raise AssertionError("was built though it is published")


def both(store: Store, tmp_path: Path) -> tuple[Dataset, Dataset]:
    corpus = run(store, corpus_step(tmp_path))
    step = TOKENIZE.using("mill", TOKENIZE.config(encoding="characters"), {"corpus": corpus})
    return corpus, run(store, step, corpus=corpus)


def test_dataset_of_one_machine_is_found_by_another(machines: list[Store], tmp_path: Path) -> None:
    one, two = machines
    corpus, tokens = both(one, tmp_path)
    assert two.build(corpus_step(tmp_path), refuses) == Dataset(two.root / corpus.ref.key, corpus.manifest)
    found = two.open("tokens/mill")
    assert [each.manifest for each in two.list()] == [corpus.manifest, tokens.manifest]
    assert not found.folder.exists(), "nothing is fetched before it is used"
    text = Tokens(found).tokenizer.decode(Tokens(found).flat(0)[:8].tolist())
    assert text == "The mill"
    assert (found.folder / MANIFEST).read_bytes() == (tokens.folder / MANIFEST).read_bytes()
    assert Store(two.root).verify(found) == [], "what is cached is a dataset like any other"


def test_file_is_uploaded_once_and_before_the_manifest(s3: Any, address: str, machines: list[Store]) -> None:
    one, two = machines
    dataset = one.build(corpus_like("a"), writes("same"))
    again = two.build(corpus_like("b"), writes("same"))
    assert dataset.manifest.digest == again.manifest.digest
    assert [key for key in keys(s3, address) if "/files/" in key] == ["mill/files/" + sha("same")]
    assert len(keys(s3, address)) == 3


def test_two_builders_of_one_step_share_one_dataset(machines: list[Store]) -> None:
    one, two = machines

    def interrupted(out: Path, scratch: Path) -> dict[str, Any]:
        two.build(corpus_like("a"), writes("theirs"))
        return writes("ours")(out, scratch)

    dataset = one.build(corpus_like("a"), interrupted)
    assert dataset.file("text").read_text() == "theirs", "who is first is right, and the other takes that"
    assert one.verify(dataset) == two.verify(dataset) == []


def test_rebuild_replaces_the_dataset_for_every_machine(machines: list[Store]) -> None:
    one, two = machines
    one.build(corpus_like("a"), writes("old"))
    assert two.open("a").file("text").read_text() == "old"
    one.build(corpus_like("a"), writes("new"), rebuild=True)
    assert two.open("a").file("text").read_text() == "new"
    assert two.build(corpus_like("a"), writes("newest"), rebuild=True).file("text").read_text() == "newest"
    assert one.open("a").file("text").read_text() == "newest"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.store.bucket import Bucket
from pipelines.store.store import Store
sys.path.insert(0, {folder!r})
from test_bucket import corpus_step, run
calls = 0
def killing(method):
    def call(*arguments):
        global calls
        calls += 1
        if calls > {after}:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments)
    return call
bucket = Bucket({address!r})
filesystem, _ = bucket._place
filesystem.put_file, filesystem.pipe_file = killing(filesystem.put_file), killing(filesystem.pipe_file)
run(Store({root!r}, bucket), corpus_step(Path({texts!r})))
"""


@pytest.mark.parametrize("after", [2, 5])
def test_killed_upload_is_continued_by_the_next_run(
    after: int, s3: Any, address: str, machines: list[Store], tmp_path: Path
) -> None:
    one, two = machines
    corpus_step(tmp_path)
    places = {"folder": str(Path(__file__).parent), "root": str(one.root), "texts": str(tmp_path)}
    script = KILLED.format(after=after, address=address, **places)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert two.list() == [] and two.find(corpus_step(tmp_path)) is None
    assert not [key for key in keys(s3, address) if "manifests" in key]
    dataset = one.build(corpus_step(tmp_path), refuses)
    assert two.verify(two.open("mill")) == [] and two.open("mill").manifest == dataset.manifest


def test_damaged_copy_is_fetched_again(machines: list[Store], tmp_path: Path) -> None:
    one, two = machines
    both(one, tmp_path)
    copy = two.open("tokens/mill").file("tokens-00000.arrow")
    whole = copy.read_bytes()
    for damaged in (whole[:-1], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], None):
        copy.unlink() if damaged is None else copy.write_bytes(damaged)
        assert two.open("tokens/mill").file("tokens-00000.arrow").read_bytes() == whole
    times = copy.stat()
    copy.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))  # damaged by the disk, that is, and not written to
    assert two.verify(two.open("tokens/mill")) == [
        "tokens-00000.arrow was changed: its SHA-256 is not the one in the manifest, in the copy on this machine"
    ]
    assert two.open("tokens/mill").file("tokens-00000.arrow").read_bytes() == whole
    assert two.verify(two.open("tokens/mill")) == []


def test_copy_of_a_clock_that_was_ahead_is_compared(machines: list[Store], tmp_path: Path) -> None:
    one, two = machines
    both(one, tmp_path)
    tokens = two.open("tokens/mill")
    copy, ahead = tokens.file("tokens-00000.arrow"), time.time() + 365 * 86_400
    whole = copy.read_bytes()
    os.utime(tokens.folder / MANIFEST, (ahead, ahead))
    copy.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert two.open("tokens/mill").file("tokens-00000.arrow").read_bytes() == whole
    assert (tokens.folder / MANIFEST).stat().st_mtime < ahead


def test_damage_in_the_bucket_is_named(s3: Any, address: str, machines: list[Store]) -> None:
    one, two = machines
    dataset = one.build(corpus_like("a"), writes("text"))
    name = address.removeprefix("s3://").partition("/")[0]
    s3.put_object(Bucket=name, Key="mill/files/" + sha("text"), Body=b"tent")
    assert one.verify(dataset) == ["text was changed in the bucket: its SHA-256 is another"]
    with pytest.raises(InputError, match="was changed in the bucket"):
        two.open("a").file("text")
    assert not (two.open("a").folder / "text").exists()
    s3.delete_object(Bucket=name, Key="mill/files/" + sha("text"))
    assert one.verify(dataset) == ["text is missing from the bucket"]
    with pytest.raises(InputError):
        two.open("a").file("text")


def test_sweep_deletes_files_of_removed_datasets(s3: Any, address: str, machines: list[Store]) -> None:
    one, two = machines
    one.build(corpus_like("a"), writes("mine"))
    one.build(corpus_like("b"), writes("other"))
    two.open("a").file("text")
    two.remove(two.open("a"))
    assert [each.ref.name for each in one.list()] == ["b"]
    assert one.sweep_bucket() == 0, "an upload may be under way"
    assert one.sweep_bucket(hours=0) == 1
    assert [key for key in keys(s3, address) if "/files/" in key] == ["mill/files/" + sha("other")]
    assert one.verify(one.open("b")) == []


def test_sql_fetches_only_the_files_that_it_reads(machines: list[Store], tmp_path: Path) -> None:
    one, two = machines
    corpus, tokens = both(one, tmp_path)
    connection = connect(two)
    assert connection.execute("SELECT count(*) FROM datasets").fetchall() == [(2,)]
    assert not any(each.folder.exists() for each in two.list())
    assert connection.execute("SELECT count(*) FROM documents").fetchall() == [(3,)]
    assert (two.root / corpus.ref.key).exists() and not (two.root / tokens.ref.key).exists()
    ends = "SELECT decode(tokens[:8]) FROM tokens ORDER BY shard, start LIMIT 1"
    assert connection.execute(ends).fetchall() == [("The mill",)]


def test_command_line_lists_verifies_and_queries_the_bucket(
    address: str, machines: list[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(machines[0], tmp_path)
    monkeypatch.setenv("TOKENMILL_DATA", address)
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path / "two"))

    def tokenmill(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert tokenmill("datasets", "ls").count("mill") == 2
    assert f"{address}/manifests/tokens/mill-" in tokenmill("datasets", "show", "tokens/mill")
    assert "2 of 2 datasets are as they were published" in tokenmill("datasets", "verify")
    assert "3" in tokenmill("sql", "select count(*) from documents", "--format", "csv").split()
    assert tokenmill("datasets", "gc").startswith("Deleted 0")
    assert tokenmill("datasets", "ls").count("mill") == 2


def test_listing_reads_only_new_manifests(machines: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machines
    for name in "abc":
        one.build(corpus_like(name), writes(name))
    assert len(two.list()) == 3
    filesystem, _ = two.bucket._place  # type: ignore[union-attr]
    monkeypatch.setattr(filesystem, "cat", None)
    assert len(two.list()) == len(two.list("things")) == 3
    monkeypatch.undo()
    one.build(corpus_like("a"), writes("changed"), rebuild=True)
    assert two.open("a").file("text").read_text() == "changed"


def test_datasets_from_before_the_bucket_are_uploaded(machines: list[Store]) -> None:
    one, two = machines
    local = Store(one.root).build(corpus_like("a"), writes("text"))
    assert one.build(corpus_like("a"), refuses).manifest == local.manifest
    assert two.open("a").file("text").read_text() == "text"


def test_unreachable_bucket_is_one_sentence(s3: Any, tmp_path: Path) -> None:
    nowhere = Store(tmp_path, Bucket("s3://no-such-bucket/mill"))
    with pytest.raises(InputError, match=r"data root s3://no-such-bucket/mill cannot be used .*TOKENMILL_DATA"):
        nowhere.build(corpus_like("a"), writes("text"))
    assert (tmp_path / "things").exists(), "what was built is kept"


def corpus_like(name: str) -> Step:
    from pipelines.store.step import StepType

    return StepType("example", "things", 1, INGEST.config, refuses, packages=("pipelines.errors",)).using(
        name, INGEST.config(sources=[{"uri": "x"}])
    )


def writes(text: str) -> Any:
    def work(out: Path, scratch: Path) -> dict[str, Any]:
        (out / "text").write_text(text)
        return {}

    return work


def sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
