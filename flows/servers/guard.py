"""The gate in front of Prefect's and MLflow's applications, for every HTTP request and every WebSocket.

It answers 403 to pages of other sites: the request's Host and Origin have to be the server's own. It answers 401 to
whoever does not have the home's secret, as a header, as the cookie of a login link, or as the first message of a
WebSocket. It answers 415 to bodies that a page of another site could send without asking first.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from flows.servers.reach import LOCAL_NAMES
from flows.servers.secret import Secret

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

LINK_SECONDS = 10 * 60
"""How long a login link works."""

COOKIE_SECONDS = 30 * 24 * 60 * 60
"""How long a browser stays logged in."""

SIMPLE_TYPES = {"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"}
"""Types of bodies that a browser sends to other sites without asking them first."""

FIRST_PAGE = "/?first-visit"
"""Where a login link leads if the browser is to store something first."""

PROTECTION: Headers = [
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
"""Headers of every answer: pages of other sites can neither frame nor embed it."""

FOREIGN = "This server answers only its own pages and programs, at its own address."
LOGGED_OUT = (
    "This server asks for its owner's secret: `tokenmill up` prints a link that opens its pages, "
    "and `tokenmill env` prints variables for programs."
)
UNTYPED = "A body needs its content type, such as application/json; forms and plain text are not accepted."


def login_link(url: str, secret: Secret) -> str:
    """Return an address that opens a server's pages logged in, for ten minutes."""
    return f"{url}/?token={secret.token('link', LINK_SECONDS)}"


class Guard:
    """An ASGI application that lets only its owner reach another one.

    Args:
        app: the application behind it. It sees neither the secret nor the cookie.
        secret: the home's secret.
        port: where the server listens. Its names are 127.0.0.1, localhost and [::1].
        others: further secrets that are accepted: those that the user has set in Prefect's or MLflow's variables.
        hosts: further names of the server, with ports; a `*` in them matches any text.
        origins: further sites whose pages may call it.
        takes_files: whether PUT may carry any type, since it uploads files.
        defaults: what a login link stores in the browser where its pages have stored nothing yet.
    """

    def __init__(
        self,
        app: App,
        secret: Secret,
        port: int,
        *,
        others: Iterable[str] = (),
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        takes_files: bool = False,
        defaults: Mapping[str, str] = {},
    ) -> None:
        self.app, self.secret, self.takes_files = app, secret, takes_files
        self.secrets = [secret.value, *filter(None, others)]
        names = [f"{name}:{port}" for name in LOCAL_NAMES]
        self.names = {*names, *(name.removesuffix(":80") for name in names if port == 80)}
        self.patterns = list(hosts)
        self.origins = {origin.rstrip("/").lower() for origin in origins}
        self.cookie = f"tokenmill-{secret.id}"
        self.defaults = dict(defaults)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, log a browser in, or pass the request to the application."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if not self._is_at_home(scope):
            return await _refuse(scope, send, HTTPStatus.FORBIDDEN, FOREIGN)
        if token := self._link_token(scope):
            return await self._log_in(scope, send, token)
        is_owner = self._has_secret(scope)
        if not is_owner and not _can_send_secret_later(scope):
            return await self._refuse_stranger(scope, send)
        if scope["type"] == "http" and not self._has_type(scope):
            return await _refuse(scope, send, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, UNTYPED)
        if is_owner and self.defaults and _is_first_page(scope):
            return await _answer(send, HTTPStatus.OK, _first_page(self.defaults), [(b"content-type", b"text/html")])
        if not is_owner:
            receive, send = self._ask_for_secret(receive, send)
        await self.app({**scope, "headers": self._without_secret(scope)}, receive, _protected(send))

    def _is_at_home(self, scope: Scope) -> bool:
        """Return whether a request names this server and comes from its own page or from no page."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or not self._is_own_name(hosts[0].lower()):
            return False
        if origins:
            return all(self._is_own_origin(origin.lower(), hosts[0].lower()) for origin in origins)
        # A browser leaves the origin out when it opens a page, loads a picture or a script, or sends a form by GET.
        sites = _values(scope, b"sec-fetch-site")
        return _is_navigation(scope) or all(site in ("same-origin", "none") for site in sites)

    def _is_own_name(self, host: str) -> bool:
        return host in self.names or any(
            fnmatchcase(host, pattern.replace("[", "[[]")) if "*" in pattern else host == pattern
            for pattern in self.patterns
        )

    def _is_own_origin(self, origin: str, host: str) -> bool:
        scheme, _, name = origin.partition("://")
        is_page = scheme in ("http", "https")
        if is_page and name in self.names:  # a page of this machine may call this machine by any of its names
            return host in self.names
        return origin in self.origins or (is_page and name == host)

    def _has_secret(self, scope: Scope) -> bool:
        for value in _values(scope, b"authorization"):
            scheme, _, credentials = value.partition(" ")
            if scheme.lower() == "bearer" and self._is_secret(credentials.strip()):
                return True
            if scheme.lower() == "basic" and self._is_secret(_decoded(credentials.strip())):
                return True
        return any(name == self.cookie and self.secret.accepts("cookie", value) for name, value in _cookies(scope))

    def _is_secret(self, text: str) -> bool:
        """Return whether a text is one of the secrets, alone (Prefect's way) or after `user:` (MLflow's way)."""
        tried = (text, text.partition(":")[2])
        return any(
            hmac.compare_digest(one.encode(errors="surrogatepass"), each.encode())
            for one in tried
            for each in self.secrets
        )

    def _has_type(self, scope: Scope) -> bool:
        """Return whether a request's body, if it has one, is of a type that no page of another site sends unasked."""
        has_body = _values(scope, b"transfer-encoding") or any(n != "0" for n in _values(scope, b"content-length"))
        if not has_body or (self.takes_files and scope["method"] == "PUT"):
            return True
        types = _values(scope, b"content-type")
        return (
            len(types) == 1 and types[0].partition(";")[0].strip().lower() not in SIMPLE_TYPES and "," not in types[0]
        )

    def _link_token(self, scope: Scope) -> str | None:
        """Return the token of a request that a login link makes."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] != "/":
            return None
        return parse_qs(scope["query_string"].decode("latin-1")).get("token", [None])[-1]

    async def _log_in(self, scope: Scope, send: Send, token: str) -> None:
        """Answer a login link: give the browser its cookie, and lead it to the address without the token."""
        location = FIRST_PAGE if self.defaults else "/"
        headers = [(b"location", location.encode()), (b"referrer-policy", b"no-referrer")]
        if self.secret.accepts("link", token):
            value = self.secret.token("cookie", COOKIE_SECONDS)
            cookie = f"{self.cookie}={value}; Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Strict"
            if scope.get("scheme") == "https":  # a proxy on this machine says so with X-Forwarded-Proto
                cookie += "; Secure"
            headers.append((b"set-cookie", cookie.encode()))
        elif not self._has_secret(scope):
            sentence = "This link is no longer valid. `tokenmill up` prints a new one."
            return await _refuse(scope, send, HTTPStatus.UNAUTHORIZED, sentence)
        await _answer(send, HTTPStatus.SEE_OTHER, b"", headers)

    async def _refuse_stranger(self, scope: Scope, send: Send) -> None:
        if scope["type"] == "http" and "cross-site" in _values(scope, b"sec-fetch-site"):
            # A link on a page of another site led here, so the browser left the cookie out. It is our own page that
            # asks for the address once more.
            page = b'<!doctype html><meta http-equiv="refresh" content="0"><title>One moment</title>'
            return await _answer(send, HTTPStatus.UNAUTHORIZED, page, [(b"content-type", b"text/html")])
        await _refuse(scope, send, HTTPStatus.UNAUTHORIZED, LOGGED_OUT)

    def _ask_for_secret(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """Return the ends of a WebSocket whose first message has to hold the secret, as Prefect's clients send it.

        Until then the application may accept or close it, and nothing else.
        """
        is_open = False

        async def checked_receive() -> Message:
            nonlocal is_open
            message = await receive()
            if is_open or message["type"] != "websocket.receive":
                return message
            is_open = self._is_secret(_first_token(message))
            if is_open:
                return message
            await send({"type": "websocket.close", "code": 1008, "reason": "Invalid token"})
            return {"type": "websocket.disconnect", "code": 1008, "reason": "Invalid token"}

        async def checked_send(message: Message) -> None:
            if is_open or message["type"] in ("websocket.accept", "websocket.close"):
                await send(message)

        return checked_receive, checked_send

    def _without_secret(self, scope: Scope) -> Headers:
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"authorization", b"cookie")]
        cookies = "; ".join(f"{name}={value}" for name, value in _cookies(scope) if name != self.cookie)
        return [*kept, (b"cookie", cookies.encode("latin-1"))] if cookies else kept


def _is_first_page(scope: Scope) -> bool:
    is_page = scope["type"] == "http" and scope["method"] == "GET"
    return is_page and FIRST_PAGE.encode() == scope["path"].encode() + b"?" + scope["query_string"]


def _first_page(defaults: Mapping[str, str]) -> bytes:
    """Return the page that a login leads to: it stores what the browser lacks, and opens the server's own page."""
    script = f"""for (const [key, value] of Object.entries({json.dumps(defaults).replace("</", "<" + chr(92) + "/")}))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, value)
location.replace("/")"""
    return f"<!doctype html><title>One moment</title><script>{script}</script>".encode()


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]


def _cookies(scope: Scope) -> list[tuple[str, str]]:
    pairs = [pair.strip().partition("=") for each in _values(scope, b"cookie") for pair in each.split(";")]
    return [(name, value) for name, separator, value in pairs if separator]


def _is_navigation(scope: Scope) -> bool:
    """Return whether a browser opens a page in a tab of its own, from wherever the link was."""
    modes, places = _values(scope, b"sec-fetch-mode"), _values(scope, b"sec-fetch-dest")
    return scope.get("method") == "GET" and modes == ["navigate"] and places == ["document"]


def _can_send_secret_later(scope: Scope) -> bool:
    return scope["type"] == "websocket" and "prefect" in scope.get("subprotocols", [])


def _decoded(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _first_token(message: Message) -> str:
    """Return the token of the message with which Prefect's clients log in."""
    try:
        content = json.loads(message.get("text") or message.get("bytes") or b"")
        return str(content["token"]) if content["type"] == "auth" else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


async def _refuse(scope: Scope, send: Send, status: HTTPStatus, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))  # with Basic, browsers would ask for a password
    if scope["type"] == "http":
        await _answer(send, status, f"{sentence}\n".encode(), headers)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await _answer(send, status, f"{sentence}\n".encode(), headers, kind="websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1008})


async def _answer(send: Send, status: HTTPStatus, body: bytes, headers: Headers, kind: str = "http.response") -> None:
    headers = [*headers, *PROTECTION, (b"cache-control", b"no-store"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{kind}.start", "status": int(status), "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _protected(send: Send) -> Send:
    async def protected_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *PROTECTION]}
        await send(message)

    return protected_send
