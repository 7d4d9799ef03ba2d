"""The store: datasets are published whole or not at all, once and for good, and found again."""

import errno
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from examples import leftovers, step, writes

from pipelines.errors import InputError
from pipelines.store.files import file_sha256
from pipelines.store.intact import Damaged
from pipelines.store.manifest import MANIFEST, Ref, files_digest
from pipelines.store.store import Store

pytestmark = pytest.mark.integration


def refuses(out, scratch):
    raise AssertionError("was built though it is published")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


# Publishing


def test_published_result_is_found_and_not_built_again(store):
    ref = Ref(kind="corpus", name="c", fingerprint="ab" * 32, digest="cd" * 32)
    inputs = {"corpus": SimpleNamespace(ref=ref)}
    dataset = store.build(step(inputs=inputs), writes(), built_by={"run": "17"})
    manifest = dataset.manifest
    assert dataset.path == store.root / "things" / f"x-{manifest.fingerprint[:12]}"
    assert manifest.fingerprint == step(inputs=inputs).fingerprint
    assert (manifest.kind, manifest.name, manifest.step, manifest.step_version) == ("things", "x", "example", 1)
    assert manifest.config == {"text": "text"}
    assert manifest.inputs == {"corpus": ref}
    assert manifest.statistics == {"files": 3}
    assert manifest.built["run"] == "17" and manifest.built["seconds"] >= 0
    assert {name: entry.bytes for name, entry in manifest.files.items()} == {
        "empty": 0,
        "folder/two.txt": 8,
        "one.txt": 4,
    }
    assert manifest.bytes == 12
    assert manifest.files["one.txt"].sha256 == file_sha256(dataset.file("one.txt"))
    assert store.verify(dataset) == []
    assert store.build(step(inputs=inputs), refuses) == dataset
    assert store.find(step(inputs=inputs)) == dataset
    assert store.find(step("other")) is None
    assert leftovers(store) == []


def test_digest_depends_on_the_content_alone(store):
    one, other = (store.build(step(name=name), writes()) for name in ("x", "y"))
    assert one.manifest.digest == other.manifest.digest
    assert store.build(step("else"), writes("else")).manifest.digest != one.manifest.digest
    names = {"a": one.manifest.files["one.txt"], "b": one.manifest.files["empty"]}
    assert files_digest(names) == files_digest(dict(reversed(names.items())))
    assert files_digest(names) != files_digest({"a": names["b"], "b": names["a"]})


def test_failed_step_publishes_nothing_and_keeps_its_checkpoint(store):
    def fails(out, scratch):
        writes()(out, scratch)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.build(step(), fails)
    assert store.list() == []
    assert leftovers(store) == [f".scratch/{step().fingerprint}"]

    def resumes(out, scratch):
        assert list(out.iterdir()) == []
        assert (scratch / "checkpoint").read_text() == "text"
        return {}

    store.build(step(), resumes)
    assert leftovers(store) == []


def test_full_disk_publishes_nothing(store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"^The disk is full where .* lies; free some space and run again\.$"):
            store.build(step(), writes())
    assert store.list() == []
    assert store.verify(store.build(step(), writes())) == []


def test_newest_stays_newest_when_the_clock_is_set_back(store, monkeypatch):
    hours = iter([5, -3, -3, 0])

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=next(hours))

    monkeypatch.setattr("pipelines.store.store.datetime", Clock)
    published = [store.build(step(f"text {number}"), writes()) for number in range(4)]
    assert [dataset.ref for dataset in store.list()] == [dataset.ref for dataset in published]
    assert store.open("things/x").ref == published[-1].ref


def test_clock_that_was_ahead_shadows_no_other_name(store, monkeypatch):
    days = iter([365, 0, 0])

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=next(days))

    monkeypatch.setattr("pipelines.store.store.datetime", Clock)
    ahead, second, third = (store.build(step(name=name), writes()) for name in ("ahead", "b", "c"))
    assert [dataset.ref for dataset in store.list()] == [ahead.ref, second.ref, third.ref]
    assert store.open("things").ref == third.ref
    assert third.manifest.built_at < datetime.now(UTC) < ahead.manifest.built_at


def test_statistics_without_json_publish_nothing(store):
    with pytest.raises(Exception, match="serialize"):
        store.build(step(), lambda out, scratch: {"what": object()})
    assert store.list() == []


def test_foreign_files_in_the_way_are_named(store):
    target = store.root / step().key
    target.mkdir(parents=True)
    (target / "mine.txt").touch()
    with pytest.raises(InputError, match=f"{target}.*{MANIFEST}"):
        store.build(step(), writes())
    assert (target / "mine.txt").exists()


def test_rebuild_replaces_the_old_result(store):
    old = store.build(step(), writes())
    assert store.build(step(), refuses) == old
    new = store.build(step(), writes("new"), rebuild=True)
    assert new.path == old.folder
    assert new.file("one.txt").read_text() == "new"
    assert store.list() == [new]
    assert leftovers(store) == []


def test_lock_of_a_sweep_does_not_prevent_a_rebuild(store):
    """The sweep of another process holds a step's lock too, while it deletes."""
    old = store.build(step(), writes())
    held, release = threading.Event(), threading.Event()

    def hold():
        with store.lock(step().fingerprint):
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    new = store.build(step(), writes("new"), rebuild=True, on_wait=release.set)
    holder.join()
    assert new.manifest.digest != old.manifest.digest


def test_removed_dataset_is_gone(store):
    dataset = store.build(step(), writes())
    kept = store.build(step("kept"), writes())
    store.remove(dataset)
    assert store.list() == [kept]
    assert leftovers(store) == []


def test_lock_is_held_until_its_holder_releases_it(store):
    assert not store.is_locked("starting")
    with store.lock("starting"):
        assert store.is_locked("starting") and not store.is_locked("other")
    assert not store.is_locked("starting")


def test_sweep_spares_running_steps(store):
    def run(out, scratch):
        (out / "half").touch()
        (scratch / "checkpoint").touch()
        assert store.sweep() == []
        return {}

    assert list(store.build(step(), run).manifest.files) == ["half"]


def test_sweep_spares_checkpoints_of_unpublished_steps(store):
    (store.root / ".scratch" / step().fingerprint).mkdir(parents=True)
    assert store.sweep() == []
    store.build(step(), writes())
    (store.root / ".scratch" / step().fingerprint).mkdir(parents=True)
    assert store.sweep() == [step().fingerprint]


def test_sweep_deletes_old_checkpoints(store):
    for name, days in (("old", 3), ("new", 1)):
        checkpoint = store.root / ".scratch" / step(name).fingerprint / "checkpoint"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        for path in (checkpoint, checkpoint.parent):
            os.utime(path, (time.time() - days * 86_400,) * 2)
    assert store.sweep() == []
    assert store.sweep(checkpoint_days=2) == [step("old").fingerprint]


def test_sweep_of_a_missing_folder_does_nothing(tmp_path):
    assert Store(tmp_path / "nowhere").sweep() == []


# Verifying


def flip_a_bit(dataset):
    path = dataset.path / "one.txt"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "changed": (flip_a_bit, "one.txt was changed"),
    "cut": (lambda d: os.truncate(d.path / "folder" / "two.txt", 3), "folder/two.txt has 3 bytes instead of 8"),
    "grown": (lambda d: (d.path / "empty").write_text("a"), "empty has 1 bytes instead of 0"),
    "missing": (lambda d: (d.path / "one.txt").unlink(), "one.txt is missing"),
    "more": (lambda d: (d.path / "folder" / "more").touch(), "folder/more does not belong"),
    "another's": (lambda d: os.replace(d.path / "empty", d.path / "one.txt"), "empty is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_the_damage(store, damage):
    dataset = store.build(step(), writes())
    spoil, sentence = DAMAGES[damage]
    spoil(dataset)
    assert any(sentence in problem for problem in store.verify(dataset))


def test_changed_list_of_files_is_noticed(store):
    dataset = store.build(step(), writes())
    manifest = json.loads((dataset.path / MANIFEST).read_text())
    del manifest["files"]["one.txt"]
    (dataset.path / "one.txt").unlink()
    (dataset.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="checksum"):
        store.find(step())
    del manifest["checksum"]  # as earlier versions wrote it
    (dataset.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="list of files"):
        store.find(step())


@pytest.mark.parametrize("change", [{"kind": "other"}, {"name": "other"}, {"fingerprint": "ab" * 32}])
def test_dataset_under_another_name_is_left_out(store, change):
    dataset, kept = store.build(step(), writes()), store.build(step("kept"), writes())
    place = dataset.path / MANIFEST
    place.write_text(dataset.manifest.model_copy(update=change).model_dump_json())
    with pytest.warns(UserWarning, match=f"{place} belongs to .* move it back"):
        assert store.list() == [kept]
    with pytest.raises(InputError, match="belongs to"):
        store.find(step())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "things"}'])
def test_unreadable_manifest_is_named(store, content):
    dataset = store.build(step(), writes())
    (dataset.path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=f"{dataset.path / MANIFEST}.*delete"):
        store.find(step())


@pytest.mark.parametrize(
    "name",
    ["../../secret", "/etc/passwd", "a/../../../b", "..", "a\\b", "a\0", "．．/x", "one.txt/x", "Manifest.json", ""],
)
def test_manifest_cannot_name_files_outside_its_folder(store, name):
    dataset = store.build(step(), writes())
    manifest = json.loads((dataset.path / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"]["one.txt"]
    (dataset.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=MANIFEST):
        store.find(step()).file(name)


# Opening


@pytest.fixture
def filled(store):
    """Two versions of x, a y and a model named x, oldest first."""
    steps = [step("1"), step("2"), step("3", name="y"), step("4", kind="model")]
    return store, [store.build(each, writes()) for each in steps]


def test_reference_opens_the_newest_match(filled):
    store, (x1, x2, y, model) = filled
    assert store.open("things/x") == x2, "the newest"
    assert store.open("y") == store.open("things/y") == store.open("y", kind="things") == y
    assert store.open("x") == store.open("model") == model, "several kinds have the name: the model"
    assert store.open("x", kind="things") == store.open("things/x") == x2
    assert store.open("things") == y
    for dataset in (x1, x2, y, model):
        ref = dataset.ref
        assert store.open(ref) == dataset
        assert store.open(str(ref)) == dataset
        assert store.open(ref.fingerprint) == store.open(ref.fingerprint[:12]) == dataset
        assert store.open(f"{ref.name}@{ref.fingerprint[:12]}") == dataset
        assert store.open(f"{ref.kind}@{ref.fingerprint[:12]}") == dataset


def test_bare_name_means_no_report_and_asks_where_it_is_unclear(filled):
    store, (*_, y, model) = filled
    report = store.build(step("5", kind="report", name="x"), writes())
    only = store.build(step("6", kind="report", name="page"), writes())
    assert store.open("x") == model and store.open("report/x") == report and store.open("page") == only
    store.build(step("7", kind="report", name="y"), writes())
    assert store.open("y") == y
    store.build(step("8", kind="corpus", name="y"), writes())
    with pytest.raises(InputError, match="'y' names 2 datasets; give one of things/y, corpus/y"):
        store.open("y")
    for reference, near in (("pagee", "page"), ("modle/x", "model/x"), ("things/yy", "things/y")):
        with pytest.raises(InputError, match=f"did you mean '{near}'?"):
            store.open(reference)


@pytest.mark.parametrize(
    "reference", ["z", "things/z", "other/x", "x@ffffffffffffffff", "", "/", "@", "../x", "things/*"]
)
def test_unknown_reference_is_an_error(filled, reference):
    store, _ = filled
    with pytest.raises(InputError, match=r"Nothing called .*(tokenmill datasets ls|did you mean)"):
        store.open(reference)


def test_reference_to_a_removed_dataset_is_an_error(filled):
    store, (x1, *_) = filled
    store.remove(x1)
    with pytest.raises(InputError, match="run the step"):
        store.open(x1.ref)


def test_ambiguous_digits_are_an_error(store):
    """Among 40 fingerprints some share their first digit; only whole references to one are taken."""
    datasets = [store.build(step(str(i)), writes()) for i in range(40)]
    first = [dataset.ref.fingerprint[0] for dataset in datasets]
    shared = max(set(first), key=first.count)
    with pytest.raises(InputError, match="more digits"):
        store.open(f"x@{shared}")
    with pytest.raises(InputError, match="more digits"):
        store.open(f"things/x@{shared}")


def test_list_holds_all_datasets_oldest_first(filled):
    store, datasets = filled
    assert store.list() == datasets
    assert store.list("things") == datasets[:3]
    assert store.list("nothing") == []
    assert Store(store.root / "nowhere").list() == []
    (store.root / "things" / "not-a-dataset").mkdir()
    (store.root / "README.md").touch()
    assert store.list() == datasets


def test_unknown_file_is_answered_with_the_known_ones(store):
    with pytest.raises(InputError, match=r"no file 'two.txt'; it holds empty, folder/two.txt, one.txt"):
        store.build(step(), writes()).file("two.txt")


def test_changed_code_is_noticed(store, monkeypatch):
    dataset = store.build(step(), writes())
    assert not store.changed_code(step(), dataset)
    monkeypatch.setattr("pipelines.store.store.code_digest", lambda *_, **__: "other")
    assert store.changed_code(step(), dataset)


@pytest.mark.parametrize("kind", ["/", "..", "../data/things", "thin*", ".staging", ""])
def test_kind_is_a_name_and_no_path(store, kind):
    store.build(step(), writes())
    assert store.list(kind) == [] and len(store.list("things")) == 1


def test_link_in_a_dataset_does_not_lead_out_of_it(store, tmp_path):
    dataset = store.build(step(), writes())
    (dataset.path / "one.txt").rename(tmp_path / "elsewhere")
    (dataset.folder / "one.txt").symlink_to(tmp_path / "elsewhere")
    for use in (dataset.file, dataset.open):
        with pytest.raises(InputError, match="names no file in"):
            use("one.txt")


@pytest.mark.parametrize("name", ["../../x", "/x", "a\0b", "", ".", "é" * 200])
def test_lock_stays_in_its_folder_whatever_its_name(store, name):
    with store.lock(name):
        assert store.is_locked(name)
        assert len([*(store.root / ".locks").iterdir()]) == 1
    assert not store.is_locked(name)
