"""What ends a run before it begins: servers that do not answer, and full disks behind other errors."""

import time
from http.server import BaseHTTPRequestHandler

import pytest

from flows.commands.options import naming_a_full_disk
from flows.servers import health
from flows.servers.health import check_named
from pipelines.errors import InputError
from pipelines.store import disks
from pipelines.store.step import Stopped


def test_named_mlflow_server_that_drips_is_bad_input(serve, monkeypatch):
    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self):
            for _ in range(50):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
                time.sleep(0.1)

    monkeypatch.setattr(health, "PATIENCE", 0.2)
    port = serve(Dripping).server_port
    sentence = rf"^Nothing answers at MLFLOW_TRACKING_URI=http://127.0.0.1:{port}; start that server, or unset"
    with pytest.raises(InputError, match=sentence):
        check_named("MLFLOW_TRACKING_URI", f"http://reader:secret@127.0.0.1:{port}")


@pytest.mark.parametrize("error", [InputError("A server did not come up."), RuntimeError("status 500")])
def test_full_disk_is_named_in_place_of_what_it_broke(tmp_path, monkeypatch, error):
    with pytest.raises(type(error), match=str(error)), naming_a_full_disk(tmp_path):
        raise error
    monkeypatch.setattr(disks, "ROOM", 2**80)
    with pytest.raises(InputError, match=r"^The disk is full where"), naming_a_full_disk(tmp_path):
        raise error
    with pytest.raises(Stopped), naming_a_full_disk(tmp_path):
        raise Stopped("stopped within pretrain x")
