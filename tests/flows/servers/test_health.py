"""Checks of a server's address."""

from http.server import BaseHTTPRequestHandler

import pytest

from flows.servers.health import answers, has_page


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
        ("503/text/html", False, False),
    ],
)
def test_status_and_type_decide(url, monkeypatch, path, is_answer, is_page):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked for an address of this machine
    assert answers(f"{url}/{path}/") is is_answer
    assert has_page(f"{url}/{path}/health") is is_page


@pytest.mark.parametrize("nowhere", ["http://127.0.0.1:9", "", "no address", "http://[::1", "http://127.0.0.1:x"])
def test_address_without_server_does_not_answer(nowhere):
    assert not answers(nowhere) and not has_page(nowhere)
