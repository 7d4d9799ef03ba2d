"""The secret of a home: made once, for its owner alone."""

import multiprocessing
import os
import shutil
import stat
import time

import pytest

from flows.servers import secret as module
from flows.servers.secret import Secret, home_secret
from pipelines.errors import InputError

SECRET = Secret("0123456789abcdef0123456789abcdef")


def test_secret_is_made_once_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        found = home_secret(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "secret").read_text() == f"{found.value}\n" and home_secret(tmp_path) == found
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert not (tmp_path / ".secret.new").exists()


def make(folder, made):
    made.put(home_secret(folder).value)


def test_processes_that_start_at_once_get_the_same_secret(tmp_path):
    context = multiprocessing.get_context("fork")
    made = context.SimpleQueue()
    processes = [context.Process(target=make, args=(tmp_path, made)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {made.get() for _ in processes} == {home_secret(tmp_path).value}


def test_copied_home_gets_a_secret_of_its_own(tmp_path):
    (tmp_path / "given").mkdir()
    known = home_secret(tmp_path / "given")
    shutil.copytree(tmp_path / "given", tmp_path / "taken")
    assert home_secret(tmp_path / "taken") != known
    assert home_secret(tmp_path / "taken") == home_secret(tmp_path / "taken")
    assert home_secret(tmp_path / "given") == known


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_secret_that_others_may_read_is_refused(tmp_path, mode):
    home_secret(tmp_path)
    (tmp_path / "secret").chmod(mode)
    with pytest.raises(InputError, match=r"secret.* others.*tokenmill down.*delete the file"):
        home_secret(tmp_path)


def test_secret_of_another_user_is_refused(tmp_path, monkeypatch):
    home_secret(tmp_path)
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        home_secret(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short\n", b"two lines of text\nthat are long\n", b"\xff" * 40, b"a" * 2000])
def test_file_without_a_secret_is_refused(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match="holds no secret; delete it"):
        home_secret(tmp_path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_secret_that_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "secret"
    elsewhere = tmp_path / "elsewhere"
    if kind == "folder":
        path.mkdir(0o700)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.symlink_to(elsewhere)
        if kind == "link":
            elsewhere.write_text(SECRET.value)
            elsewhere.chmod(0o600)
    with pytest.raises(InputError, match="secret"):
        home_secret(tmp_path)
    assert elsewhere.exists() == (kind == "link")


def test_token_is_valid_for_its_purpose_its_secret_and_its_time(monkeypatch):
    token = SECRET.token("link", 60)
    assert SECRET.accepts("link", token) and SECRET.value not in token
    assert not SECRET.accepts("cookie", token)
    assert not Secret("another" * 5).accepts("link", token)
    until, _, digest = token.partition("-")
    for changed in (
        "",
        "-",
        until,
        f"{until}-",
        f"{int(until) + 1}-{digest}",
        f"-{digest}",
        f"x-{digest}",
        f"{token}é",
    ):
        assert not SECRET.accepts("link", changed)
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 61)
    assert not SECRET.accepts("link", token)


def test_name_of_a_secret_does_not_betray_it():
    assert SECRET.id not in SECRET.value and SECRET.id != Secret(SECRET.value[::-1]).id
