"""The guard, in front of an application that answers everything."""

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.servers.guard import Guard, login_link
from flows.servers.secret import Secret

SECRET = Secret("0123456789abcdef0123456789abcdef")
OWN = ["127.0.0.1:4200", "localhost:4200", "[::1]:4200"]
JSON = {"content-type": "application/json", "content-length": "2"}
LOGIN = {"authorization": f"Bearer {SECRET.value}"}


HOST = [(b"host", b"127.0.0.1:4200")]


def basic(text):
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def ask(
    headers, *, kind="http", method="POST", path="/api/flows/filter", query="", messages=(), scheme="http", **settings
):
    """Send one request through a guard; return the status, the headers of the answer and what the application saw.

    A WebSocket's status is 101 if it was accepted.
    """
    seen, sent = [], []
    pairs = [
        (key, value) for key, values in headers.items() for value in ([values] if isinstance(values, str) else values)
    ]
    if "host" not in headers:
        pairs.append(("host", OWN[0]))
    scope = {
        "type": kind,
        "method": method,
        "scheme": scheme,
        "path": path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in pairs],
        "extensions": {"websocket.http.response": {}},
        "subprotocols": [value for key, value in pairs if key == "sec-websocket-protocol"],
    }
    queue = [*messages, {"type": f"{kind}.disconnect"}]

    async def app(scope, receive, send):
        seen.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            return await send({"type": "http.response.body", "body": b"private"})
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "greeting"})
        while (message := await receive())["type"] == "websocket.receive":
            seen.append(message)
            await send({"type": "websocket.send", "text": "private"})

    async def receive():
        return queue.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(app, SECRET, 4200, **settings)(scope, receive, send))
    start = sent[0]
    status = 101 if start["type"] == "websocket.accept" else start["status"]
    assert (status in (200, 101)) == bool(seen), "the application sees what is let through, and nothing else"
    answer = {name.decode(): value.decode() for name, value in start.get("headers", [])}
    return status, answer, [*seen, *(message for message in sent if message["type"].startswith("websocket"))]


def status(headers, **request):
    return ask(headers, **request)[0]


@pytest.mark.parametrize(
    "login",
    [LOGIN, basic(SECRET.value), basic(f"tokenmill:{SECRET.value}"), basic(f":{SECRET.value}"),
     {"cookie": f"a=b; tokenmill-{SECRET.id}={SECRET.token('cookie', 60)}"},
     {"authorization": f"bearer  {SECRET.value}"}],
)  # fmt: skip
def test_owner_is_let_through_and_the_secret_stays_behind(login):
    code, answer, (scope, *_) = ask({**login, **JSON, "origin": f"http://{OWN[0]}"})
    assert code == 200 and SECRET.value not in str(scope) and SECRET.id not in str(scope)
    assert answer["cross-origin-resource-policy"] == "same-origin"
    assert (b"cookie", b"a=b") in scope["headers"] or "cookie" not in login


@pytest.mark.parametrize(
    "login",
    [{}, {"authorization": ""}, {"authorization": SECRET.value}, {"authorization": f"Digest {SECRET.value}"},
     {"authorization": f"Bearer {SECRET.value}0"}, {"authorization": "Bearer "}, {"authorization": "Basic ===="},
     {"authorization": "Bearer é"}, basic(""), basic(":"), basic("x:"), basic(f"{SECRET.value}:x"),
     {"cookie": f"tokenmill-{SECRET.id}={SECRET.value}"}, {"cookie": f"tokenmill-{SECRET.id}"},
     {"cookie": f"tokenmill-{SECRET.id}={SECRET.token('link', 60)}"},
     {"cookie": f"tokenmill-{SECRET.id}={SECRET.token('cookie', -1)}"},
     {"cookie": f"tokenmill-0={SECRET.token('cookie', 60)}"}],
)  # fmt: skip
def test_stranger_is_refused_everywhere(login):
    for path in ("/", "/api/health", "/health", "/api/flows/filter", "/ui-settings"):
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert status({**login, **JSON}, method=method, path=path) == 401
    assert status(login, kind="websocket") == 401
    assert "basic" not in ask(login)[1]["www-authenticate"].lower(), "a browser would ask for a password"


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")) | st.sampled_from(
    ["evil.example:4200", "127.0.0.1", "127.0.0.1:42000", "127.0.0.1:4200.evil.example", "127.0.0.1:4200@evil.example",
     "localhost.:4200", "127.1:4200", "0.0.0.0:4200", "2130706433:4200", "[::ffff:127.0.0.1]:4200", "::1:4200"]
))  # fmt: skip
def test_any_other_host_is_refused(host):
    if host.lower() not in OWN:
        assert status({**LOGIN, **JSON, "host": host}) == 403
        assert status({**LOGIN, "host": host}, kind="websocket") == 403
        assert status({**LOGIN, "host": host, "origin": f"http://{host}"}, method="GET") == 403


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")) | st.sampled_from(
    ["null", "http://evil.example", "http://127.0.0.1:8931", "http://localhost:8931", "http://127.0.0.1", "file://",
     "http://127.0.0.1:4200.evil.example", "http://127.0.0.1:4200/", "ftp://127.0.0.1:4200", "127.0.0.1:4200",
     "http://a@127.0.0.1:4200", "chrome-extension://abc", "http://evil.example:4200"]
))  # fmt: skip
def test_any_other_origin_is_refused(origin):
    if origin.lower() not in {f"{scheme}://{name}" for scheme in ("http", "https") for name in OWN}:
        for method in ("GET", "POST", "OPTIONS"):
            assert status({**LOGIN, **JSON, "origin": origin}, method=method) == 403
        assert status({**LOGIN, "origin": origin}, kind="websocket") == 403


@pytest.mark.parametrize("host", [*OWN, "LOCALHOST:4200"])
def test_own_names_are_accepted(host):
    assert status({**LOGIN, **JSON, "host": host, "origin": f"http://{host}"}) == 200
    assert status({**LOGIN, "host": host, "origin": f"http://{host}"}, kind="websocket") == 101


@pytest.mark.parametrize("host", ["mill.example.org", "mill.example.org:4200", "[fd00::5]:4200"])
def test_named_host_is_accepted_with_its_own_pages_only(host):
    named = {"hosts": ["mill.example.org", "mill.example.org:4200", "[fd00::5]:4200"]}
    for kind, passed in (("http", 200), ("websocket", 101)):
        for scheme in ("http", "https"):
            own = {**LOGIN, **JSON, "host": host, "origin": f"{scheme}://{host}"}
            assert status(own, kind=kind, **named) == passed
            assert status({**own, "authorization": ""}, kind=kind, **named) == 401
        for origin in (f"http://{OWN[0]}", "http://mill.example.org:8931", f"http://{host}.evil.example", "null"):
            assert status({**LOGIN, **JSON, "host": host, "origin": origin}, kind=kind, **named) == 403
    assert status({**LOGIN, **JSON, "host": OWN[0], "origin": f"http://{host}"}, **named) == 403


@pytest.mark.parametrize("host", ["evil.example:4200", "mill.example.org:80", "a.mill.example.org", "mill.example.org.",
                                  "f:4200", "[fd00::6]:4200", ""])  # fmt: skip
def test_name_beside_the_named_ones_is_refused(host):
    """A page of another site can give this machine a name of its own, and forward headers of its own."""
    named = {"hosts": ["mill.example.org", "mill.example.org:4200", "[fd00::5]:4200"]}
    forwarded = {"x-forwarded-host": OWN[0], "forwarded": f"host={OWN[0]}", "x-original-host": OWN[0]}
    for kind in ("http", "websocket"):
        assert status({**LOGIN, **JSON, **forwarded, "host": host}, kind=kind, **named) == 403


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookie_of_a_login_over_tls_is_never_sent_in_the_clear(scheme):
    query = login_link("", SECRET).partition("?")[2]
    cookie = ask({}, method="GET", path="/", query=query, scheme=scheme)[1]["set-cookie"]
    assert ("; Secure" in cookie) == (scheme == "https")


def test_doubled_or_missing_headers_are_refused():
    assert status({**LOGIN, "host": [OWN[0], "evil.example"]}) == 403
    assert status({**LOGIN, "host": []}) == 403
    assert status({**LOGIN, "origin": [f"http://{OWN[0]}", "http://evil.example"]}) == 403
    assert status({**LOGIN, "content-type": ["application/json", "text/plain"], "content-length": "2"}) == 415


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_page_of_another_site_without_an_origin_is_refused(site):
    """A browser sends no Origin for pictures, scripts and frames, but says that another site asks."""
    for mode, place in (("no-cors", "image"), ("no-cors", "script"), ("navigate", "iframe"), ("navigate", "object")):
        fetch = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": place}
        assert status({**LOGIN, **fetch}, method="GET") == 403
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert status({**LOGIN, **link}, method="GET") == 200
    assert status({**LOGIN, **link}, method="POST") == 403
    assert status({**LOGIN, "sec-fetch-site": "same-origin"}, method="GET") == 200
    assert status({**LOGIN, "sec-fetch-site": "none"}, method="GET") == 200


def test_link_on_a_page_of_another_site_is_asked_once_more():
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ask(link, method="GET")[1]["content-type"] == "text/html"
    assert ask({**link, "sec-fetch-site": "same-origin"}, method="GET")[1]["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "content",
    [{}, {"content-type": ""}, {"content-type": "text/plain"}, {"content-type": "TEXT/PLAIN; charset=utf-8"},
     {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "multipart/form-data; boundary=x"},
     {"content-type": "text/plain;application/json"}, {"content-type": "application/json, text/plain"}],
)  # fmt: skip
@pytest.mark.parametrize("size", [{"content-length": "2"}, {"transfer-encoding": "chunked"}])
def test_body_that_a_form_could_send_is_refused(content, size):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert status({**LOGIN, **content, **size}, method=method) == 415
    assert status({**LOGIN, **content, **size}, method="POST", takes_files=True) == 415
    assert status({**LOGIN, **content, **size}, method="PUT", takes_files=True) == 200, "an uploaded file"


def test_body_of_json_and_no_body_are_accepted():
    assert status({**LOGIN, **JSON, "content-type": "application/json; charset=utf-8"}) == 200
    assert status({**LOGIN, "content-type": "application/x-protobuf", "content-length": "2"}) == 200
    assert status(LOGIN) == status({**LOGIN, "content-length": "0"}) == 200


def test_login_link_gives_a_cookie_and_leaves_no_token():
    query = login_link("http://127.0.0.1:4200", SECRET).partition("?")[2]
    code, answer, _ = ask({}, method="GET", path="/", query=query)
    assert code == 303 and answer["location"] == "/" and answer["referrer-policy"] == "no-referrer"
    cookie, *attributes = answer["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes) and SECRET.value not in cookie
    assert status({"cookie": cookie}, method="GET", path="/") == 200
    assert status({"host": "evil.example:4200"}, method="GET", path="/", query=query) == 403
    assert status({"origin": "null"}, method="GET", path="/", query=query) == 403
    for wrong in ("token=", "token=x", f"token={SECRET.value}", f"token={SECRET.token('cookie', 60)}"):
        assert status({}, method="GET", path="/", query=wrong) == 401
    outdated = f"token={SECRET.token('link', -1)}"
    code, answer, _ = ask({"cookie": cookie}, method="GET", path="/", query=outdated)
    assert code == 303 and "set-cookie" not in answer, "whoever is logged in needs no new link"


def test_first_page_stores_defaults_in_the_browser_for_the_owner_alone():
    sent = []

    async def send(message):
        sent.append(message)

    def visit(query, **headers):
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": HOST}
        scope["headers"] = [*HOST, *((name.encode(), value.encode()) for name, value in headers.items())]
        asyncio.run(Guard(None, SECRET, 4200, defaults={"mode": "</training"})(scope, None, send))
        start, body = sent[-2:]
        return start["status"], dict(start["headers"]), body["body"]

    code, headers, _ = visit(login_link("", SECRET).partition("?")[2])
    first = headers[b"location"].decode()
    cookie = headers[b"set-cookie"].decode().partition(";")[0]
    assert code == 303 and visit(first.partition("?")[2])[0] == 401
    code, _, page = visit(first.partition("?")[2], cookie=cookie)
    assert code == 200 and b"localStorage" in page and b'"mode": "<\\/training"' in page


def test_settings_of_users_add_secrets_names_and_sites():
    settings = {
        "others": ["ada:lovelace", ""],
        "hosts": ["mill.example", "*.lab.example:*"],
        "origins": ["https://a.example/"],
    }
    assert status({**basic("ada:lovelace"), **JSON}, **settings) == 200
    assert status({**basic("ada:byron"), **JSON}, **settings) == status({**basic(""), **JSON}, **settings) == 401
    assert status({**LOGIN, **JSON, "host": "mill.example", "origin": "https://mill.example"}, **settings) == 200
    assert status({**LOGIN, **JSON, "host": "x.lab.example:80"}, **settings) == 200
    assert status({**LOGIN, **JSON, "host": "lab.example:80"}, **settings) == 403
    assert status({**LOGIN, **JSON, "origin": "https://a.example"}, **settings) == 200
    assert status({**LOGIN, **JSON, "origin": "https://mill.example"}, **settings) == 403


PREFECT = {"sec-websocket-protocol": "prefect"}


def first(value):
    return [{"type": "websocket.receive", "text": value if isinstance(value, str) else json.dumps(value)}]


def test_websocket_may_send_the_secret_first():
    messages = [*first({"type": "auth", "token": SECRET.value}), *first("{}")]
    code, _, seen = ask(PREFECT, kind="websocket", messages=messages)
    assert code == 101 and [each.get("text") for each in seen].count("private") == 2


@pytest.mark.parametrize(
    "message",
    ["", "{}", "[]", "null", "[" * 5000, r'{"type": "auth", "token": "\ud800"}', {"type": "auth"},
     {"type": "auth", "token": None}, {"type": "auth", "token": ""}, {"type": "filter", "token": SECRET.value},
     {"type": "auth", "token": f"{SECRET.value}0"}],
)  # fmt: skip
def test_websocket_without_the_secret_learns_nothing(message):
    code, _, (_scope, *seen) = ask(PREFECT, kind="websocket", messages=[*first(message), *first("{}")])
    assert code == 101 and [each["type"] for each in seen] == ["websocket.accept", "websocket.close"]
    assert ask({**PREFECT, **LOGIN}, kind="websocket")[2][-1]["text"] == "greeting"


def test_start_and_end_of_the_server_reach_the_application():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)

    asyncio.run(Guard(app, SECRET, 4200)({"type": "lifespan"}, None, None))
    assert scopes == [{"type": "lifespan"}]
