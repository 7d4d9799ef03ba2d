"""What we make is for its owner alone, on any umask."""

import os
import stat

import pytest
from examples import step, writes

from pipelines.errors import InputError
from pipelines.report.page import write_page
from pipelines.store import modes
from pipelines.store.bucket import Bucket
from pipelines.store.modes import close, keep_private, make_folder, open_to_others
from pipelines.store.store import Store


@pytest.fixture(autouse=True)
def usual_umask(monkeypatch):
    """Let everything be open, as on some network disks, and forget what other tests have set."""
    monkeypatch.setattr(modes, "_usual", None)
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_store_is_closed_in_a_program_with_an_open_umask(tmp_path):
    dataset = Store(tmp_path / "home" / "data").build(step(), writes())
    assert {mode(path) for path in (tmp_path / "home", dataset.folder.parents[1], dataset.folder.parent)} == {0o700}
    assert mode(dataset.folder) == 0o700, "so its files cannot be reached, whatever their modes are"
    assert list(open_to_others(tmp_path / "home")) == []


def test_files_are_private_except_those_that_a_person_names(tmp_path):
    os.umask(0o022)
    keep_private()
    keep_private()
    dataset = Store(tmp_path / "data").build(step(), writes())
    assert {mode(path) for path in dataset.folder.rglob("*")} == {0o600, 0o700}
    write_page(tmp_path / "page.html", "page")
    assert mode(tmp_path / "page.html") == 0o644


def test_bucket_in_a_folder_has_the_modes_of_other_programs(tmp_path):
    os.umask(0o022)
    keep_private()
    (tmp_path / "bucket").mkdir(0o770)
    Store(tmp_path / "data", Bucket(f"file://{tmp_path}/bucket")).build(step(), writes())
    assert {mode(path) for path in (tmp_path / "bucket").rglob("*")} == {0o644, 0o755}
    assert mode(tmp_path / "bucket") == 0o700, "it was there already"
    assert list(open_to_others(tmp_path / "data")) == []


@pytest.mark.parametrize(("umask", "folder", "file"), [("027", 0o750, 0o640), ("007", 0o770, 0o660)])
def test_setting_opens_a_home_to_the_group(monkeypatch, tmp_path, umask, folder, file):
    monkeypatch.setenv("TOKENMILL_UMASK", umask)
    keep_private()
    dataset = Store(tmp_path / "data").build(step(), writes())
    assert mode(dataset.folder) == folder and mode(dataset.file("one.txt")) == file
    assert list(open_to_others(tmp_path / "data")) == []
    monkeypatch.delenv("TOKENMILL_UMASK")
    assert tmp_path / "data" in open_to_others(tmp_path / "data")


@pytest.mark.parametrize("umask", ["022", "000", "700", "27", "x", "0o077", "-1"])
def test_setting_that_opens_a_home_to_everybody_is_refused(monkeypatch, umask):
    monkeypatch.setenv("TOKENMILL_UMASK", umask)
    with pytest.raises(InputError, match=r"TOKENMILL_UMASK=.*007 to let the group write"):
        keep_private()


def test_open_home_is_noticed_and_can_be_closed(tmp_path):
    home = tmp_path / "data"
    (home / "corpus").mkdir(parents=True)
    (home / "corpus" / "text").write_text("mine")
    assert list(open_to_others(home)) == [home, home / "corpus", home / "corpus" / "text"]
    close(home)
    assert list(open_to_others(home)) == [] and mode(home / "corpus" / "text") == 0o600


def test_folders_of_a_checkout_may_be_open(tmp_path):
    (tmp_path / "README.md").touch()
    make_folder(tmp_path / "corpus")
    tmp_path.chmod(0o755)
    assert list(open_to_others(tmp_path)) == []
    (tmp_path / "corpus").chmod(0o755)
    assert list(open_to_others(tmp_path)) == [tmp_path / "corpus"]


def test_existing_folders_keep_their_modes(tmp_path):
    (tmp_path / "shared").mkdir(0o755)
    make_folder(tmp_path / "shared" / "new")
    assert mode(tmp_path / "shared") == 0o755 and mode(tmp_path / "shared" / "new") == 0o700
