"""Files that are written whole or not at all."""

import errno
import json
import os

import pytest

from pipelines.store.files import write_json, write_synced


def test_written_files_are_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": "é"})
    assert path.read_text() == '{\n "a": "é"\n}\n'

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_synced(path, b"new")
    assert json.loads(path.read_text()) == {"a": "é"}
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]
