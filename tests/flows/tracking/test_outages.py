"""Servers that refuse, hang, drip or fail in the middle of a run are named, waited for and given up."""

import asyncio
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
import requests

from flows.servers import health
from flows.tracking import outages
from flows.tracking.outages import SENDER, waiting_for
from pipelines.errors import InputError, ServerAway

AWAY = "! MLflow at {} does not answer; waiting for it."
BACK = "! MLflow at {} answers again."


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    values = {"PATIENCE": 60, "DEADLINE": 0.3, "LATE": 60, "PAUSE": 0.05, "PROBE": 60}
    values |= {"HURRY": 0.1, "SLICE": 0.05}
    for name, value in values.items():
        monkeypatch.setattr(outages, name, value)
    monkeypatch.setattr(health, "PATIENCE", 0.2)


@pytest.fixture
def server(serve):
    """A server whose `how` says what it does: answer, refuse, hang, drip, or fail as a proxy without a server does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            how = self.server.how
            if how in ("refuse", "hang", "drip"):
                with suppress(OSError):
                    for _ in range(50 if how == "drip" else 0):
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
                        time.sleep(0.1)
                while how == "hang" and self.server.how == how:
                    time.sleep(0.05)
                self.close_connection = True
                return
            self.send_response(503 if how == "fail" else 200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"well")

        do_POST = do_GET  # noqa: N815

    server = serve(Handler)
    server.how, server.asked = "answer", 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    return server


def ask_async(url):
    async def ask():
        async with httpx.AsyncClient() as client:
            return (await client.get(url)).text

    return asyncio.run(ask())


CLIENTS = {
    "httpx": lambda url: httpx.get(url).text,
    "httpx async": ask_async,
    "requests": lambda url: requests.get(url, timeout=20).text,
}


@pytest.mark.parametrize(
    ("client", "how"),
    [
        *(("httpx", how) for how in ("refuse", "drip")),
        *(("httpx async", how) for how in ("hang", "fail")),
        *(("requests", how) for how in ("hang", "drip")),
    ],
)
def test_server_that_is_away_is_named_once_and_waited_for(server, capsys, client, how):
    server.how = how
    threading.Timer(0.5, setattr, [server, "how", "answer"]).start()
    with waiting_for("MLflow", server.url):
        assert CLIENTS[client](f"{server.url}/api/things") == "well"
    assert capsys.readouterr().err.splitlines() == [AWAY.format(server.url), BACK.format(server.url)]


@pytest.mark.parametrize("client", ["httpx async", "requests"])
def test_server_that_stays_away_is_given_up_in_one_sentence(server, monkeypatch, capsys, client):
    monkeypatch.setattr(outages, "PATIENCE", 0.3)
    server.how = "refuse"
    address = server.url.replace("//", "//reader:secret@")
    sentence = r"^MLflow at \S+ does not answer\. .*kept.*`tokenmill up`"
    with pytest.raises(ServerAway, match=sentence) as caught, waiting_for("MLflow", address):
        try:
            CLIENTS[client](f"{server.url}/api/things")
        except ServerAway:
            raise RuntimeError("the library's own words") from None
    assert "secret" not in str(caught.value) + capsys.readouterr().err and server.url in str(caught.value)


def test_server_that_was_given_up_is_not_waited_for_again(server, monkeypatch):
    monkeypatch.setattr(outages, "PATIENCE", 0.3)
    server.how = "refuse"
    with waiting_for("MLflow", server.url):
        with pytest.raises(ServerAway):
            httpx.get(f"{server.url}/api/things")
        started = time.monotonic()
        with pytest.raises(ServerAway):
            httpx.get(f"{server.url}/api/things")
        assert time.monotonic() - started < 1
        server.how = "answer"
        assert httpx.get(f"{server.url}/api/things").text == "well"


def test_server_that_was_given_up_may_not_hang_again(server, monkeypatch):
    monkeypatch.setattr(outages, "PATIENCE", 0.2)
    server.how = "hang"
    with waiting_for("MLflow", server.url):
        for deadline in (0.1, 60):
            monkeypatch.setattr(outages, "DEADLINE", deadline)
            started = time.monotonic()
            with pytest.raises(ServerAway):
                httpx.get(f"{server.url}/api/things", timeout=60)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("how", ["refuse", "hang", "drip"])
def test_outage_is_named_while_no_server_is_needed(server, monkeypatch, capsys, how):
    monkeypatch.setattr(outages, "PROBE", 0.1)
    with waiting_for("MLflow", server.url):
        time.sleep(0.4)
        assert capsys.readouterr().err == ""
        for mode, sentence in ((how, AWAY), ("answer", BACK)):
            server.how = mode
            seen, until = "", time.monotonic() + 10
            while not seen and time.monotonic() < until:
                time.sleep(0.05)
                seen = capsys.readouterr().err
            assert seen.strip() == sentence.format(server.url)


def test_late_answer_names_the_server_before_the_deadline(server, monkeypatch, capsys):
    monkeypatch.setattr(outages, "DEADLINE", 60)
    monkeypatch.setattr(outages, "LATE", 0.2)
    server.how = "hang"
    threading.Timer(0.6, setattr, [server, "how", "answer"]).start()
    with waiting_for("MLflow", server.url):
        assert httpx.get(f"{server.url}/api/things", timeout=60).text == "well"
    assert capsys.readouterr().err.startswith(AWAY.format(server.url))


@pytest.mark.parametrize("client", CLIENTS)
def test_run_that_is_to_end_waits_no_longer(server, client):
    server.how, started = "hang", time.monotonic()
    with pytest.raises(ServerAway), waiting_for("MLflow", server.url, hurry=lambda: True):
        CLIENTS[client](f"{server.url}/api/things")
    assert time.monotonic() - started < 3


def test_sender_of_curves_is_not_kept(server):
    server.how, failed = "refuse", []

    def send():
        try:
            httpx.get(f"{server.url}/api/things")
        except ServerAway as error:
            failed.append(error)

    with waiting_for("MLflow", server.url):
        sender = threading.Thread(target=send, name=SENDER)
        sender.start()
        sender.join(3)
    assert failed


def test_full_disk_is_named_in_place_of_the_server_on_it(server, monkeypatch):
    monkeypatch.setattr(outages, "full_disk", lambda folders: InputError("The disk is full."))
    server.how = "fail"
    with pytest.raises(InputError, match="disk is full"), waiting_for("MLflow", server.url):
        httpx.get(f"{server.url}/api/things")


def test_other_addresses_and_databases_pass(server):
    with waiting_for("MLflow", "sqlite:///nothing.db"), waiting_for("MLflow", "http://127.0.0.1:9"):
        assert httpx.get(f"{server.url}/api/things").text == "well"
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://127.0.0.1:9/api/things")
