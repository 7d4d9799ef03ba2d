"""Checks of a server's address."""

import time
from http.server import BaseHTTPRequestHandler

import pytest

from flows.servers import health
from flows.servers.health import answers, has_page
from flows.servers.secret import Secret


@pytest.fixture
def url(serve):
    """The address of a server that answers the path `/200/text/html/health` with that status and type."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            _, status, *content, _ = self.path.split("/")
            self.send_response(int(status))
            self.send_header("Content-Type", "/".join(content))
            self.end_headers()

    return f"http://127.0.0.1:{serve(Handler).server_port}"


@pytest.mark.parametrize(
    ("path", "is_answer", "is_page"),
    [
        ("200/text/html", True, True),
        ("200/application/json", True, False),
        ("401/text/html", True, True),
        ("404/text/html", True, False),
        ("307/text/html", True, True),
        ("503/text/html", False, False),
    ],
)
def test_status_and_type_decide(url, monkeypatch, path, is_answer, is_page):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked for an address of this machine
    assert answers(f"{url}/{path}/") is is_answer
    assert has_page(f"{url}/{path}/health") is is_page


@pytest.mark.parametrize("slow", ["status", "header", "body", "silence"])
def test_server_that_drips_has_a_deadline(serve, monkeypatch, slow):
    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = b"HTTP/1.1 200 OK\r\nX: x\r\nContent-Type: text/html\r\n\r\n"
            at = {"status": 3, "header": 20, "body": len(answer), "silence": 0}[slow]
            try:
                self.wfile.write(answer[:at])
                while slow != "silence":
                    self.wfile.write(b"0")
                    time.sleep(0.05)
                time.sleep(3)
            except OSError:
                pass  # the client has gone

    url = f"http://127.0.0.1:{serve(Dripping).server_port}"
    monkeypatch.setattr(health, "PATIENCE", 0.4)
    started = time.monotonic()
    assert (answers(url), has_page(url)) == (slow == "body", slow == "body"), "a body is not waited for"
    assert time.monotonic() - started < 2


def test_secret_goes_to_no_other_address(serve):
    received = []

    class Leading(BaseHTTPRequestHandler):
        def do_GET(self):
            received.append((self.path, self.headers["Authorization"]))
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.end_headers()

    assert answers(f"http://127.0.0.1:{serve(Leading).server_port}", secret=Secret("s" * 40))
    assert received == [("/health", f"Bearer {'s' * 40}")]


@pytest.mark.parametrize("nowhere", ["http://127.0.0.1:9", "", "no address", "http://[::1", "http://127.0.0.1:x"])
def test_address_without_server_does_not_answer(nowhere):
    assert not answers(nowhere) and not has_page(nowhere)
