"""Published files are compared with their SHA-256 before they are read, and again when somebody touched them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from damages import put
from examples import step, writes

import pipelines.store.manifest
from pipelines.store import intact
from pipelines.store.bucket import Bucket
from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.manifest import MANIFEST, file_sha256
from pipelines.store.step import StepContext
from pipelines.store.store import Store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes were read to compare them."""
    names: list[str] = []

    def count(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(pipelines.store.manifest, "file_sha256", count)
    return names


@pytest.fixture
def settled(store: Store, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A dataset whose files are old enough to be remembered."""
    monkeypatch.setattr(intact, "SETTLED", 5_000_000)
    dataset = store.build(step(), writes())
    time.sleep(0.02)
    assert dataset.path
    return dataset


def again(dataset: Dataset) -> Dataset:
    """Return the dataset as another process would find it."""
    found = Dataset.load(dataset.folder)
    assert found
    return found


def test_untouched_file_is_read_once(settled: Dataset, reads: list[str]) -> None:
    assert again(settled).file("one.txt").read_text() == "text"
    assert again(settled).path == settled.folder
    assert reads == []
    os.utime(settled.folder / "one.txt")
    assert again(settled).file("one.txt").read_text() == "text"
    assert reads == ["one.txt"]


def test_untouched_previous_version_is_not_read(settled: Dataset, reads: list[str], tmp_path: Path) -> None:
    work = StepContext(tmp_path, previous=again(settled))
    assert work.usable_previous("one.txt") and reads == []
    put(settled.folder / "folder/two.txt", b"texttexx")
    assert not work.usable_previous("one.txt") and reads == ["two.txt"]


@pytest.mark.parametrize("content", [b"tent", b"tex", b"text and more", b"", None])
def test_damaged_file_is_named_and_not_read(settled: Dataset, content: bytes | None) -> None:
    path = settled.folder / "one.txt"
    put(path, content)
    for dataset in (settled, again(settled)):
        with pytest.raises(
            Damaged, match=rf"^{path} is damaged; see tokenmill datasets verify {settled.ref} \(it .*\)\.$"
        ):
            dataset.file("one.txt")
    with pytest.raises(Damaged):
        assert again(settled).path
    with pytest.raises(Damaged):
        settled.open("one.txt")
    assert again(settled).file("folder/two.txt").read_text() == "texttext"


def test_time_of_change_that_is_put_back_hides_nothing(settled: Dataset) -> None:
    path = settled.folder / "one.txt"
    before = path.stat()
    path.write_bytes(b"tent")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Damaged):
        again(settled).file("one.txt")


def test_young_file_is_compared_again(store: Store, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intact, "SETTLED", 60_000_000_000)
    dataset = store.build(step(), writes())
    reads.clear()
    for _ in range(2):
        assert again(dataset).file("one.txt")
    assert reads == ["one.txt"] * 2


@pytest.mark.parametrize("memory", [b"", b"{", b"[]", b'{"one.txt": 3}', b'{"one.txt": null}', b"\xff"])
def test_damaged_memory_changes_nothing(settled: Dataset, reads: list[str], memory: bytes) -> None:
    (place,) = (settled.folder.parents[1] / ".intact").glob("*/*")
    place.write_bytes(memory)
    assert again(settled).file("one.txt").read_text() == "text"
    assert reads == ["one.txt"] and json.loads(place.read_bytes())["one.txt"]


def test_verify_reads_every_byte(store: Store, settled: Dataset, reads: list[str]) -> None:
    assert store.verify(again(settled)) == []
    assert sorted(reads) == ["empty", "one.txt", "two.txt"]


def test_memory_of_a_removed_dataset_is_deleted(store: Store, settled: Dataset) -> None:
    assert list(store.root.glob(".intact/*/*"))
    store.remove(settled)
    assert not list(store.root.glob(".intact/*/*"))


# Manifests


def change(dataset: Dataset, key: str, value: object) -> None:
    path = dataset.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {key: value}))


def test_changed_number_in_a_manifest_is_noticed(store: Store) -> None:
    dataset = store.build(step(), writes())
    change(dataset, "statistics", {"files": 4})
    with pytest.raises(
        Damaged, match=f"{MANIFEST} is damaged; see tokenmill datasets verify {dataset.ref} .its checksum"
    ):
        store.find(step())


def test_damaged_manifest_costs_its_dataset_only(store: Store) -> None:
    lost, kept = store.build(step("lost", "lost"), writes()), store.build(step("kept", "kept"), writes())
    put(lost.folder / MANIFEST, None)
    with pytest.warns(UserWarning, match=f"{lost.folder / MANIFEST} is damaged") as warned:
        assert store.list() == store.list() == [kept]
    assert len(warned) == 1
    assert store.open("kept") == kept
    for reference in ("lost", "things/lost", lost.ref.fingerprint, f"lost@{lost.ref.fingerprint}", lost.ref):
        with pytest.raises(Damaged, match=f"see tokenmill datasets verify {lost.ref}"):
            store.open(reference)


def test_nothing_is_deleted_beside_a_damaged_manifest(store: Store) -> None:
    dataset = store.build(step(), writes())
    change(dataset, "built", {})
    with pytest.raises(Damaged, match="when it was built"):
        store.list(complete=True)


def test_manifest_of_an_earlier_version_is_read(store: Store) -> None:
    dataset = store.build(step(), writes())
    (dataset.folder / MANIFEST).write_text(dataset.manifest.model_dump_json(indent=1))
    assert store.list() == [dataset] and store.verify(dataset) == []


def test_damaged_copy_of_a_manifest_is_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", Bucket(f"file://{tmp_path}/bucket"))
    dataset = store.build(step(), writes())
    assert store.list() == [dataset]
    (copy,) = store.root.glob(".manifests/*/*.json")
    copy.write_bytes(copy.read_bytes()[:-20])
    assert store.list() == [dataset]
    (here,) = (tmp_path / "bucket").glob("manifests/*/*.json")
    here.write_bytes(here.read_bytes()[:-20])
    with pytest.warns(UserWarning, match=f"^file://{here} is damaged; see tokenmill datasets verify {dataset.ref} "):
        assert store.list() == []
    with pytest.raises(Damaged):
        store.sweep_bucket()


@pytest.mark.parametrize("name", ["one.txt", MANIFEST])
def test_folder_in_place_of_a_fetched_file_is_replaced(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "data", Bucket(f"file://{tmp_path}/bucket"))
    dataset = store.build(step(), writes())
    put(dataset.folder / name, None)
    assert store.open("x").file("one.txt").read_text() == "text"
