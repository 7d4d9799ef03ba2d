"""Proxies: no client asks this machine through one, every client asks other machines through it."""

import os
import urllib.request
from http.server import BaseHTTPRequestHandler

import fsspec
import httpx
import pytest
import requests
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import connect

from pipelines import proxies
from pipelines.proxies import HERE, UNUSABLE, spare_this_machine, variable_for

LOCAL = ",".join(HERE)


@pytest.fixture(autouse=True)
def set_variables(monkeypatch):
    """set_variables(name=value) makes these the only variables about proxies."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY", "FSSPEC_HTTP", "FSSPEC_HTTPS"):
        monkeypatch.setenv(name, "")  # restores what spare_this_machine sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(proxies, "problems", [])

    def prepare(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        spare_this_machine()
        monkeypatch.setattr(fsspec.config, "conf", conf := {})
        fsspec.config.set_conf_env(conf)

    return prepare


@pytest.fixture
def server(serve):
    """A server or a proxy: it answers every request with `asked ADDRESS`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = f"asked {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return f"127.0.0.1:{serve(Handler).server_port}"


def by_fsspec(url):
    fsspec.filesystem("http").clear_instance_cache()
    return fsspec.open(url).fs.cat_file(url).decode()


CLIENTS = {
    "httpx": lambda url: httpx.get(url).text,
    "requests": lambda url: requests.get(url, timeout=5).text,
    "urllib": lambda url: urllib.request.urlopen(url).read().decode(),
    "fsspec": by_fsspec,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_ask_only_other_machines_through_the_proxy(set_variables, server, client):
    set_variables(http_proxy=f"http://{server}", no_proxy="intranet.example")
    assert CLIENTS[client](f"http://{server}/here") == "asked /here"
    assert CLIENTS[client]("http://other.invalid/there") == "asked http://other.invalid/there"


def test_options_of_sources_are_kept_with_a_proxy(set_variables, server):
    options = '{"client_kwargs": {"headers": {"Authorization": "Bearer x"}}}'
    set_variables(http_proxy=f"http://{server}", FSSPEC_HTTPS=options)
    assert by_fsspec("http://other.invalid/there") == "asked http://other.invalid/there"
    kept = fsspec.config.conf["https"]["client_kwargs"]
    assert kept == {"headers": {"Authorization": "Bearer x"}, "trust_env": True}
    set_variables(FSSPEC_HTTPS="damaged")
    assert os.environ["FSSPEC_HTTPS"] == "damaged"


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "socks://127.0.0.1:9/", "ftp://h"])
def test_dead_proxies_do_not_matter_here(set_variables, server, proxy, value):
    set_variables(**{proxy: value})
    for name, ask in CLIENTS.items():
        assert ask(f"http://{server}/here") == "asked /here", name
    with pytest.raises(InvalidHandshake):  # the server answered, and knows no WebSockets
        connect(f"ws://{server}/", open_timeout=5)


def test_socks_proxy_is_asked_for_other_machines(set_variables):
    set_variables(all_proxy="socks5://127.0.0.1:9")
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://other.invalid")
    with pytest.raises(requests.ConnectionError, match="SOCKS"):
        requests.get("http://other.invalid", timeout=5)
    assert variable_for("http://other.invalid/api") == "all_proxy"
    assert variable_for("http://127.0.0.1:4200/api") is None


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", LOCAL),
        ("localhost, .example.com,10.0.0.0/8", "localhost,.example.com,10.0.0.0/8,127.0.0.1,::1,0.0.0.0"),
        ("[::1],fe80::/10,ex\u00e4mple,host:80", "::1,host:80,127.0.0.1,localhost,0.0.0.0"),
        ("a,*", "*"),
    ],
)
def test_exceptions_of_the_user_are_kept(set_variables, given, read):
    set_variables(NO_PROXY=given, http_proxy="http://127.0.0.1:9")
    assert os.environ["no_proxy"] == read
    httpx.Client().close()  # which raises an error at an exception that it cannot read
    before = dict(os.environ)
    spare_this_machine()
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "value", ["ftp://h:1", "socks4://h:1", "http://h:port", "http://", "http://[bad", "http://a b"]
)
def test_variable_without_a_proxy_is_named_once(set_variables, value):
    set_variables(HTTPS_PROXY=value)
    assert os.environ["HTTPS_PROXY"] == UNUSABLE
    assert len(proxies.problems) == 1
    assert "HTTPS_PROXY names no proxy" in proxies.problems[0]
    spare_this_machine()
    assert len(proxies.problems) == 1


@pytest.mark.parametrize(
    "value", ["proxy:3128", " http://user:word@proxy:3128/ ", "https://proxy", "socks5h://proxy:1"]
)
def test_variable_with_a_proxy_is_kept(set_variables, value):
    set_variables(https_proxy=value)
    assert (os.environ["https_proxy"], proxies.problems) == (value.strip(), [])
    httpx.Client().close()
