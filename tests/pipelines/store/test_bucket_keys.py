"""Keys that somebody else put into the bucket lead nowhere else on the machines that read it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples import step, writes
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.store.bucket import Bucket
from pipelines.store.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PAYLOAD = b"planted\n"
PIECES = st.sampled_from(["..", "model", "things", "/", "\\", "\0", "x-abababababab", ".json", "．．", "", "a\n"])
KEYS = st.one_of(st.text(), st.lists(PIECES).map("".join), st.lists(PIECES | st.text(max_size=4)).map("/".join))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store whose bucket has one dataset, which is not on this machine yet."""
    Store(tmp_path / "other" / "data", Bucket("memory://team/p")).build(step(), writes())
    yield Store(tmp_path / "a" / "b" / "home" / "data", Bucket("memory://team/p"))
    MemoryFileSystem.store.clear()


def plant(key: str, **changes: Any) -> None:
    """Put a model with one file into the bucket, as any program can that may write to it."""
    sha = hashlib.sha256(PAYLOAD).hexdigest()
    files = changes.setdefault("files", {"planted.pth": {"bytes": len(PAYLOAD), "sha256": sha}})
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in sorted(files.items()))
    digest = hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()
    manifest = {"kind": "model", "name": "evil", "step": "ingest", "step_version": 1, "fingerprint": "ab" * 32}
    manifest |= {"config": {}, "inputs": {}, "digest": digest, "statistics": {}, "code": "ab"}
    manifest |= {"built": {"at": "2026-11-28T00:00:00.000+00:00"}, **changes}
    for name, content in ((f"files/{sha}", PAYLOAD), (f"manifests/{key}.json", json.dumps(manifest).encode())):
        path = f"/team/p/{name}"
        MemoryFileSystem.store[path] = MemoryFile(MemoryFileSystem(), path, content)


def outside(store: Store) -> set[Path]:
    """Return the files on this machine that are not in the store."""
    top = store.root.parents[3]
    return {path for path in top.rglob("*") if path.is_file() and store.root not in path.parents}


@pytest.mark.parametrize(
    "key",
    [
        *("model/../../../../victim", "../../victim", "/victim", "model/evil", "model/evil-abababababab/x"),
        *("model//evil-abababababab", "model/../model/evil-abababababab", ".staging/evil-abababababab"),
        *("model/evil-ABABABABABAB", "model\\evil-abababababab", "model/evil-abababababab\n"),
        *("model/other-abababababab", "tokens/evil-abababababab", "model/evil-cdcdcdcdcdcd"),
    ],
)
def test_key_that_is_not_its_manifests_is_left_out_with_one_warning(store: Store, key: str) -> None:
    before = outside(store)
    plant(key)
    with pytest.warns(UserWarning, match=r"memory://team/p/manifests.*left out") as warned:
        assert [str(dataset) for dataset in store.list()] == [str(step())]
    assert len(warned) == 1
    with pytest.raises(InputError, match=r"Nothing called|left out"), warnings.catch_warnings(action="ignore"):
        store.open("model/evil")
    assert store.open("things/x").file("one.txt").read_text() == "text", "the others are used as before"
    assert outside(store) == before
    assert {path.name for path in (store.root / ".manifests").rglob("*") if path.is_file()} <= {
        *(f"{each.rpartition('/')[2]}.json" for each in (step().key, "model/other-abababababab")),
        "evil-abababababab.json",
        "evil-cdcdcdcdcdcd.json",
    }


@pytest.mark.parametrize("name", ["../../x.pth", "/x.pth", "a/../../x.pth", "..", "a\\b", "．．/x", "manifest.json"])
def test_manifest_that_names_files_elsewhere_is_left_out(store: Store, name: str) -> None:
    before = outside(store)
    sha = hashlib.sha256(PAYLOAD).hexdigest()
    plant("model/evil-abababababab", files={name: {"bytes": len(PAYLOAD), "sha256": sha}})
    with pytest.warns(UserWarning, match="names no file in its folder"):
        assert [str(dataset) for dataset in store.list()] == [str(step())]
    assert outside(store) == before


@given(key=KEYS, name=KEYS)
@example(key="model/evil-abababababab", name="../../../../planted.pth")
@example(key="model/evil-abababababab", name="planted.pth")
def test_no_key_and_no_file_leaves_the_store(tmp_path_factory: pytest.TempPathFactory, key: str, name: str) -> None:
    top = tmp_path_factory.mktemp("top")
    store = Store(top / "a" / "b" / "home" / "data", Bucket("memory://team/p"))
    sha = hashlib.sha256(PAYLOAD).hexdigest()
    try:
        plant(key, files={name: {"bytes": len(PAYLOAD), "sha256": sha}})
        with warnings.catch_warnings(action="ignore"):
            for dataset in store.list():
                assert dataset.path.resolve().is_relative_to(store.root.resolve())
                assert all(dataset.file(each).read_bytes() == PAYLOAD for each in dataset.manifest.files)
    except UnicodeError:
        pass  # no JSON holds such a name
    finally:
        MemoryFileSystem.store.clear()
    assert outside(store) == set()


def test_only_files_that_the_manifest_names_are_fetched(store: Store) -> None:
    plant("model/evil-abababababab")
    MemoryFileSystem.store["/team/p/files/more"] = MemoryFile(MemoryFileSystem(), "/team/p/files/more", b"more")
    folder = store.open("model/evil").path
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "planted.pth"}
    assert store.sweep_bucket(hours=0) == 0 and "/team/p/files/more" in MemoryFileSystem.store, "it is not ours"


def test_link_at_the_place_of_a_fetched_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    plant("model/evil-abababababab")
    dataset = store.open("model/evil")
    dataset.folder.mkdir(parents=True)
    (dataset.folder / "planted.pth").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="names no file in"):
        dataset.path  # noqa: B018
    assert not (tmp_path / "victim").exists()
