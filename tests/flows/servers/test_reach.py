"""Who reaches the two servers: their owner's programs and pages, and no other user and no page of another site."""

import base64
import contextlib
import http.client
import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.servers.processes import listen
from flows.servers.reach import Reach, parse_reach
from flows.servers.server import prefect
from flows.servers.stack import Stack
from pipelines.errors import InputError

JSON = {"Content-Type": "application/json"}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
SOCKETS = ("events/in", "events/out", "logs/out")
APIS = {"prefect": "/api/flows/filter", "mlflow": "/api/2.0/mlflow/registered-models/search"}


@pytest.fixture(scope="module")
def served(used_home, free_port):
    """Both servers on a home with a run, in a folder that every user reaches."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        home = Path(folder, "home")
        shutil.copytree(used_home.path, home)
        log_run(home)
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("TOKENMILL_HOME", str(home))
        patch.setenv("TOKENMILL_PREFECT_PORT", str(free_port()))
        patch.setenv("TOKENMILL_MLFLOW_PORT", str(free_port()))
        with pytest.MonkeyPatch.context() as settings:  # passwords that the user has chosen
            settings.setenv("PREFECT_SERVER_API_AUTH_STRING", "ada:lovelace")
            settings.setenv("MLFLOW_TRACKING_USERNAME", "grace")
            settings.setenv("MLFLOW_TRACKING_PASSWORD", "hopper")
            up = CliRunner().invoke(app, ["up", "--host", "127.0.0.2", "--allow-host", "Mill.example.org"])
        try:
            links = re.findall(r"http://127\.0\.0\.1:\S+/\?token=\S+", up.output)
            urls = [link.partition("/?")[0] for link in links]
            secret = (home / ".tokenmill" / "secret").read_text().strip()
            yield SimpleNamespace(
                home=home,
                output=up.output,
                secret=secret,
                login={"Authorization": f"Bearer {secret}"},
                links=dict(zip(APIS, links, strict=True)),
                urls=dict(zip(APIS, urls, strict=True)),
                ports={name: int(url.rpartition(":")[2]) for name, url in zip(APIS, urls, strict=True)},
            )
        finally:
            assert "Ended prefect, mlflow" in CliRunner().invoke(app, ["down"]).output


def log_run(home):
    from mlflow import MlflowClient

    uri, artifacts = f"sqlite:///{home}/mlruns/mlflow.db", home / "mlruns" / "artifacts"
    ensure_mlflow_database(uri, artifacts)
    client = MlflowClient(uri)
    client.create_run(client.create_experiment("birds", (artifacts / "birds").as_uri()), run_name="calm-heron")


def ask(port, path, headers, body=b"{}", method="POST", address="127.0.0.1"):
    """Send a request with these headers only; return the status of the answer."""
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse().status


@pytest.mark.parametrize("name", APIS)
def test_only_own_hosts_origins_types_and_secrets_pass(served, name):
    port, api, login = served.ports[name], APIS[name], served.login
    for own in ("127.0.0.1", "localhost", "[::1]"):
        assert ask(port, api, {**login, **JSON, "Host": f"{own}:{port}"}) in (200, 405)
        assert ask(port, "/", {**login, "Origin": f"http://{own}:{port}"}, None, "GET") in (200, 307)
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1:{port}.evil.example", "127.0.0.1"):
        assert ask(port, api, {**login, **JSON, "Host": host}) == 403
    for origin in ("http://evil.example", "null", "http://localhost:8931", "http://127.0.0.1:8931", "file://"):
        assert ask(port, api, {**login, **JSON, "Origin": origin}) == 403
        assert ask(port, "/", {**login, "Origin": origin}, None, "GET") == 403
    for form in ({}, *({"Content-Type": kind} for kind in ("text/plain", "application/x-www-form-urlencoded"))):
        assert ask(port, api, {**login, **form}) == 415
    for wrong in ({}, {"Authorization": f"Bearer {served.secret[::-1]}"}, {"Authorization": "Basic YWRhOmJ5cm9u"}):
        for path in (api, "/", "/health", "/api/health"):
            assert ask(port, path, {**wrong, **JSON}) == 401


@pytest.mark.parametrize("name", APIS)
def test_named_address_and_name_reach_the_servers_with_the_secret_only(served, name):
    port, api = served.ports[name], APIS[name]
    for host in (f"127.0.0.2:{port}", f"mill.example.org:{port}", "mill.example.org"):
        own = {**JSON, "Host": host, "Origin": f"https://{host}"}
        assert ask(port, api, {**served.login, **own}, address="127.0.0.2") in (200, 405)
        assert ask(port, api, own, address="127.0.0.2") == 401
        assert ask(port, api, {**served.login, **own, "Origin": f"http://127.0.0.1:{port}"}) == 403
        foreign = {"X-Forwarded-Host": host, "Forwarded": f"host={host}"}
        assert ask(port, api, {**served.login, **JSON, **foreign, "Host": f"evil.example:{port}"}) == 403
    assert f"http://mill.example.org:{port}/?token=" in served.output
    assert "plain HTTP" not in served.output, "both addresses are of this machine alone"


def test_running_servers_are_not_left_with_another_reach(served):
    done = CliRunner().invoke(app, ["up", "--allow-host", "other.example.org"])
    assert isinstance(done.exception, InputError) and "`tokenmill down`" in str(done.exception)
    assert "mill.example.org" in CliRunner().invoke(app, ["up"]).output


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [("0.0.0.0", ["mill.example.org"], (["0.0.0.0"], ["mill.example.org"], True)),
     ("::", ["[fd00::5]:80"], (["0.0.0.0", "::"], ["[fd00::5]:80"], True)),
     ("192.168.1.5", [], (["127.0.0.1", "192.168.1.5"], ["192.168.1.5"], True)),
     ("[fd00::5]", ["mill"], (["127.0.0.1", "fd00::5"], ["[fd00::5]", "mill"], True)),
     ("127.0.0.1", ["Mill.Example.org:8080"], (["127.0.0.1"], ["mill.example.org:8080"], False)),
     ("localhost", [], (["127.0.0.1"], [], False)),
     ("::1", [], (["127.0.0.1", "::1"], [], False))],
)  # fmt: skip
def test_reach_is_what_the_options_name(host, names, expected):
    found = parse_reach(host, names)
    assert (found.addresses, list(found.names), found.is_open) == expected


@pytest.mark.parametrize(
    ("host", "names", "sentence"),
    [("0.0.0.0", [], "name this one as they do"), ("::", [], "name this one"), ("mill", ["mill"], "is not an address"),
     ("fe80::1%eth0", [], "not an address"), ("", ["mill"], "not an address"), ("0.0.0.0", ["*"], "is not a name"),
     ("0.0.0.0", ["*.example.org"], "not a name"), ("0.0.0.0", ["http://mill"], "not a name"),
     ("0.0.0.0", ["mill/x"], "not a name"), ("0.0.0.0", ["a b"], "not a name"), ("0.0.0.0", ["mill\nx"], "not a name")],
)  # fmt: skip
def test_option_that_would_open_too_much_is_refused(host, names, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_reach(host, names)


@pytest.mark.parametrize("patterns", ["*", "mill.example.org, *:5000", "*.*"])
def test_variable_that_allows_every_name_is_refused_beyond_this_machine(monkeypatch, tmp_path, patterns):
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", patterns)
    Stack(tmp_path, 4200, 5000)
    for host in ("0.0.0.0", "127.0.0.1"):  # behind a proxy, the second serves other machines too
        with pytest.raises(InputError, match="allows every name"):
            Stack(tmp_path, 4200, 5000, parse_reach(host, ["mill"]))


def test_servers_listen_on_both_families_or_name_the_address(tmp_path, free_port):
    listeners = listen(prefect(tmp_path, free_port(), reach=Reach("::1")))
    assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1", "::1"]
    for listener in listeners:
        listener.close()
    with pytest.raises(InputError, match=r"no address 192\.0\.2\.1"):
        listen(prefect(tmp_path, free_port(), reach=Reach("192.0.2.1")))


def test_passwords_in_variables_of_prefect_and_mlflow_are_accepted(served):
    for name, path, login in (("prefect", "/api/health", "ada:lovelace"), ("mlflow", "/health", "grace:hopper")):
        for text, expected in ((login, 200), (f"{login}2", 401), (login.partition(":")[2], 401)):
            header = {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}
            assert ask(served.ports[name], path, header, None, "GET") == expected


def shake_hands(port, path, headers):
    """Open a WebSocket; return the status of the answer and the socket."""
    opened = socket.create_connection(("127.0.0.1", port), timeout=60)
    headers = {"Host": f"127.0.0.1:{port}", **UPGRADE, **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    opened.sendall("\r\n".join(lines).encode())
    answer = opened.makefile("rb")
    status = int(answer.readline().split()[1])
    while answer.readline().strip():
        pass
    return status, opened, answer


@pytest.mark.parametrize("path", SOCKETS)
def test_websocket_needs_own_origin_and_secret(served, path):
    port = served.ports["prefect"]
    own, foreign = {"Origin": f"http://127.0.0.1:{port}"}, {"Origin": "http://evil.example"}
    for headers, expected in (
        ({**served.login, **foreign}, 403),
        ({**served.login, "Origin": "http://localhost:8931"}, 403),
        ({**served.login, "Host": "evil.example"}, 403),
        ({}, 401),
        (own, 401),
        (served.login, 101),
        ({**served.login, **own}, 101),
    ):
        status, opened, _ = shake_hands(port, f"/api/{path}", headers)
        opened.close()
        assert status == expected, headers


def test_websocket_of_a_stranger_is_closed_at_its_first_message(served):
    status, opened, answer = shake_hands(
        served.ports["prefect"], "/api/events/out", {"Sec-WebSocket-Protocol": "prefect"}
    )
    with opened:
        text = b'{"type": "auth", "token": "guessed"}'
        opened.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
        frame = answer.read(2)
    assert status == 101 and frame[0] == 0x88, "the answer is a close frame"


def test_prefect_and_mlflow_of_the_command_line_log_in(served):
    shown = f'eval "$({sys.executable} -m flows.cli env)" && prefect flow-run ls && mlflow experiments search'
    root = str(Path(__file__).parents[3])
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": root, "PATH": programs, "COLUMNS": "200"}
    done = subprocess.run(["/bin/bash", "-c", shown], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "eager-otter" in done.stdout and "birds" in done.stdout


def test_secret_is_in_no_log_database_or_command_line(served):
    for name, link in served.links.items():
        path = link.removeprefix(served.urls[name])
        assert ask(served.ports[name], path, {}, None, "GET") == 303
        assert ask(served.ports[name], path.replace("=", "=0"), {}, None, "GET") == 401
    tokens = {served.secret, *(link.rpartition("-")[2] for link in served.links.values())}
    files = [path for path in served.home.rglob("*") if path.is_file() and path.name != "secret"]
    assert {"prefect.log", "prefect.db", "mlflow.log", "mlflow.db"} <= {path.name for path in files}
    assert [path for path in files if any(token.encode() in path.read_bytes() for token in tokens)] == []
    for service in Stack(served.home).status():
        assert not any(token in " ".join(psutil.Process(service.pid).cmdline()) for token in tokens)


def act_as_stranger(home, urls, found):
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for path in (home / ".tokenmill" / "secret", home / ".tokenmill" / "prefect.json", home / ".tokenmill"):
        try:
            found.put(list(path.iterdir()) if path.name == ".tokenmill" else path.read_text())
        except PermissionError:
            found.put("denied")
    for port, path in urls:
        found.put(ask(port, path, {}, None, "GET"))
        found.put(ask(port, path, JSON))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_other_user_of_the_machine_reads_and_uses_nothing(served):
    urls = [(served.ports[name], path) for name in APIS for path in ("/", "/health", "/api/health", APIS[name])]
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    stranger = context.Process(target=act_as_stranger, args=(served.home, urls, found))
    stranger.start()
    stranger.join(60)
    assert [found.get() for _ in range(3 + 2 * len(urls))] == ["denied"] * 3 + [401] * 2 * len(urls)
    assert stranger.exitcode == 0


# Pages, in a real browser

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
    # So that the servers refuse, and not the browser before it has asked them.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
]
CHROMIUM = os.environ.get("TOKENMILL_CHROMIUM") or shutil.which("chromium")
ATTACK = """
<!doctype html><title>attack</title><body><script>
const servers = SERVERS, got = [];
const tried = name => value => got.push(name + ": " + value);
const missed = () => null;
const embed = (tag, attribute, url) => new Promise(done => {
  const element = document.createElement(tag);
  element.onload = () => { if (tag != "iframe") got.push(tag + " loaded " + url); done(); };
  element.onerror = done;
  element[attribute] = url;
  document.body.append(element);
});
const form = (url, type) => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.name = "frame" + Math.random();
  document.body.append(frame);
  const form = document.createElement("form");
  Object.assign(form, {method: "POST", action: url, enctype: type, target: frame.name});
  const input = document.createElement("input");
  Object.assign(input, {name: '{"name": "planted", "x": "', value: '"}'});
  form.append(input);
  document.body.append(form);
  frame.onload = done;
  form.submit();
  setTimeout(done, 2000);
});
const listen = (url, protocols) => new Promise(done => {
  const socket = new WebSocket(url, protocols);
  socket.onopen = () => { got.push("socket " + url); done(); };
  socket.onerror = socket.onclose = done;
});
async function attack() {
  const body = JSON.stringify({name: "planted"});
  for (const {base, create, read} of servers) {
    for (const credentials of ["omit", "include"]) {
      await fetch(base + read, {credentials}).then(r => r.text()).then(tried("read " + base), missed);
      for (const type of ["", "text/plain", "application/json"])
        for (const mode of ["cors", "no-cors"])
          await fetch(base + create, {method: "POST", mode, credentials, body: new Blob([body], {type})})
            .then(r => r.text()).then(text => { if (mode == "cors") got.push("sent " + text); }, missed);
    }
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
      await form(base + create, type);
    for (const [tag, attribute] of [["script", "src"], ["img", "src"], ["object", "data"], ["iframe", "src"]])
      await Promise.race([embed(tag, attribute, base + read), new Promise(done => setTimeout(done, 1000))]);
    for (const path of ["events/out", "events/in", "logs/out"])
      for (const protocols of [[], ["prefect"]])
        await listen(base.replace("http", "ws") + "/api/" + path, protocols);
  }
  return got;
}
</script></body>
"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the page tests need `pip install playwright`")
    if not CHROMIUM:
        pytest.skip("no Chromium: apt-get install chromium, or name it in TOKENMILL_CHROMIUM")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, served):
    """A tab of a browser that is logged in at both servers."""
    context = browser.new_context()
    context.set_default_timeout(120_000)
    for link in served.links.values():  # as `goto`, but no page is drawn
        assert context.request.get(link).ok
    yield context.new_page()
    context.close()


def test_own_pages_open_logged_in_and_show_runs(served, tab):
    tab.goto(served.links["prefect"], wait_until="commit")
    assert "token" not in tab.url
    tab.goto(f"{served.urls['prefect']}/runs")
    tab.get_by_text("eager-otter").first.wait_for()
    tab.goto(f"{served.urls['prefect']}/v2/runs")
    tab.get_by_text("eager-otter").first.wait_for()
    tab.goto(f"{served.urls['mlflow']}/#/experiments/1/runs")
    tab.get_by_text("calm-heron").first.wait_for()


def test_link_on_another_page_opens_logged_in(served, tab):
    tab.set_content(f"<a href='{served.urls['prefect']}/runs'>our runs</a>")
    tab.get_by_text("our runs").click()
    tab.get_by_text("eager-otter").first.wait_for()


def test_one_link_logs_in_at_both_servers_and_no_link_at_none(browser, served):
    context = browser.new_context()
    page = context.new_page()
    assert page.goto(served.urls["mlflow"]).status == 401
    assert "tokenmill up" in page.locator("body").inner_text()
    page.goto(served.links["prefect"], wait_until="commit")
    assert page.goto(served.urls["mlflow"], wait_until="commit").status == 200
    context.close()


@pytest.mark.parametrize("place", ["another port", "another name", "file"])
def test_page_of_another_site_reads_and_writes_nothing(served, tab, serve, tmp_path, place):
    from http.server import BaseHTTPRequestHandler

    creations = {"prefect": "/api/flows/", "mlflow": "/api/2.0/mlflow/experiments/create"}
    reads = {"prefect": "/api/flows/00000000-0000-0000-0000-000000000000", "mlflow": "/get-artifact?path=x&run_uuid=y"}
    servers = [{"base": served.urls[name], "create": creations[name], "read": reads[name]} for name in APIS]
    content = ATTACK.replace("SERVERS", str(servers))
    (tmp_path / "attack.html").write_text(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

    port = serve(Handler).server_port
    pages = {
        "another port": f"http://127.0.0.1:{port}/",
        "another name": f"http://evil.example:{port}/",
        "file": (tmp_path / "attack.html").as_uri(),
    }
    statuses = []
    tab.on("response", lambda answer: statuses.append((answer.status, answer.url)))
    tab.goto(pages[place])
    statuses.clear()
    assert tab.evaluate("attack()") == []
    for name in APIS:
        answered = {status for status, url in statuses if url.startswith(served.urls[name] + creations[name])}
        assert answered == {403}, "the requests arrived, and were refused"
    with sqlite3.connect(served.home / ".tokenmill" / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT count(*) FROM flow WHERE name = 'planted'").fetchall() == [(0,)]
    with sqlite3.connect(served.home / "mlruns" / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'planted'").fetchall() == [(0,)]


def test_name_that_leads_to_this_machine_is_refused(served, tab):
    for name in APIS:
        foreign = served.links[name].replace("127.0.0.1", "evil.example")
        assert tab.goto(foreign).status == 403
        assert tab.goto(foreign.partition("?")[0]).status == 403
