"""Disks that take no more bytes or files are named in one sentence, whoever noticed first."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from pipelines.store import disks
from pipelines.store.disks import disk_is_full, full_disk

FULL = "The disk is full where {} lies; free some space and run again."


def behind(error: Exception, *errors: Exception) -> Exception:
    """Return the last of several errors, each of which hides the one before."""
    for hides in errors:
        hides.__context__ = error
        error = hides
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        sqlite3.OperationalError("database or disk is full"),
        duckdb.IOException('IO Error: Could not write file "/x": No space left on device'),
        behind(OSError(errno.ENOSPC, "full"), RuntimeError("the server failed"), ConnectionError("not reached")),
        ExceptionGroup("two tasks failed", [ValueError("other"), OSError(errno.ENOSPC, "full")]),
    ],
)
def test_every_word_for_a_full_disk_is_known(error, tmp_path, monkeypatch):
    assert disk_is_full(error)
    assert str(full_disk([tmp_path], error)) == FULL.format(tmp_path)


def test_full_disk_elsewhere_is_named(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/part.parquet")
    assert str(full_disk([tmp_path], error)) == FULL.format("/elsewhere/part.parquet")
    inside = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "data" / "part.parquet"))
    assert str(full_disk([tmp_path], inside)) == FULL.format(tmp_path)


def test_other_errors_and_places_are_no_full_disk(tmp_path, monkeypatch):
    assert full_disk([tmp_path, tmp_path / "absent"]) is None
    assert full_disk([tmp_path], ValueError("a quota of documents")) is None
    assert full_disk([tmp_path / "absent"], ValueError("a quota of documents")) is None


def test_full_folder_of_temporary_files_explains_a_failure(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(disks, "_is_full", lambda folder: folder == temporary)
    assert full_disk([tmp_path]) is None, "it may work without"
    assert str(full_disk([tmp_path], RuntimeError("DROP TABLE failed"))) == FULL.format(temporary)


LOOK = """
import json, sys
from pathlib import Path
from pipelines.store.disks import full_disk
def write(folder):
    try:
        (Path(folder) / "file").write_bytes(bytes(2_000_000))
    except OSError as error:
        return str(full_disk([Path(folder)], error))
print(json.dumps([write(folder) for folder in sys.argv[1:]]))
"""


def test_small_disks_without_space_files_or_leave_to_write(tmp_path):
    options = {"full": "size=1m", "files": "size=9m,nr_inodes=1", "sealed": "size=9m,ro"}
    folders = [tmp_path / name for name in options]
    for folder in folders:
        folder.mkdir()
    mounts = [f"mount -t tmpfs -o {options[folder.name]} none {folder}" for folder in folders]
    script = " && ".join([*mounts, 'exec "$0" "$@"'])
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    command = [*unshare, "sh", "-c", script, sys.executable, "-c", LOOK, *map(str, folders)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this process may not mount a small disk of its own (unshare --mount, mount -t tmpfs)")
    read_only = f"The disk is read-only where {folders[2]} lies; let it be written and run again."
    assert json.loads(done.stdout) == [FULL.format(folders[0]), FULL.format(folders[1]), read_only], done.stderr
