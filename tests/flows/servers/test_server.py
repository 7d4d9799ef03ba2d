"""Ports and homes of the servers."""

import pytest

from flows.servers.prefect_server import prefect_server
from flows.servers.server import empty_folder
from flows.servers.stack import Stack
from pipelines.errors import InputError


@pytest.mark.parametrize("port", ["", "http", "0", "65536", "-1", "²"])
def test_invalid_port_is_rejected(tmp_path, monkeypatch, port):
    monkeypatch.setenv("TOKENMILL_PREFECT_PORT", port)
    with pytest.raises(InputError, match=r"TOKENMILL_PREFECT_PORT.*1 to 65535"):
        Stack(tmp_path)


def test_impossible_home_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        for use in (Stack(home).up, Stack(home).down, prefect_server(home).__enter__):
            with pytest.raises(InputError, match=r"cannot be used .* set TOKENMILL_HOME to another folder"):
                use()


def test_servers_start_in_an_empty_folder_only(tmp_path):
    folder = empty_folder(tmp_path)
    assert empty_folder(tmp_path) == folder and folder.stat().st_mode & 0o777 == 0o700
    (folder / "prefect.toml").touch()
    with pytest.raises(InputError, match="has to be empty"):
        empty_folder(tmp_path)
