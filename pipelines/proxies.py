"""Proxies of the environment: servers of this machine are never asked through one, remote addresses are.

Every client reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` from the environment: httpx (Prefect's and
ours), websockets, requests (MLflow's), urllib, aiohttp (fsspec's) and botocore. So `spare_this_machine` changes these
variables, once in each process, and processes that it starts inherit them.
"""

import json
import os
import re
import sys
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

HERE = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # noqa: S104 - an address that people ask, nothing listens on it
NAMES = re.compile(r"(?i)(http|https|all)_proxy")
SCHEMES = ("http", "https", "socks5", "socks5h")
UNUSABLE = "http://unusable-proxy.invalid:1"
"""The value of a variable that names no proxy: clients accept it, and reach nothing through it."""

problems: list[str] = []
"""A sentence for each variable of this process that names no proxy."""


def spare_this_machine() -> None:
    """Set the variables so that every client asks this machine directly and accepts their values."""
    named = [name for name in os.environ if NAMES.fullmatch(name)]
    for name in named:
        os.environ[name] = _usable(name, os.environ[name].strip())
    if named:
        _lead_fsspec()
    if not named and sys.platform in ("darwin", "win32"):
        return  # Python would ignore the proxies of the system's settings, which have exceptions of their own
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""  # clients prefer the first too
    entries = [entry for each in given.split(",") if (entry := each.strip())]
    kept = [entry for each in entries if _is_readable(entry := each.strip("[]"))]
    # urllib knows the asterisk only alone.
    os.environ["no_proxy"] = "*" if "*" in entries else ",".join(dict.fromkeys([*kept, *HERE]))


def _lead_fsspec() -> None:
    """Let fsspec's client read the environment, with the options that a person has set for it."""
    for name in ("FSSPEC_HTTP", "FSSPEC_HTTPS"):  # fsspec takes the options of the second in place of the first's
        if name == "FSSPEC_HTTP" or name in os.environ:
            with suppress(ValueError, AttributeError):  # fsspec says what is wrong
                options = json.loads(os.environ.get(name) or "{}")
                options.setdefault("client_kwargs", {}).setdefault("trust_env", True)
                os.environ[name] = json.dumps(options)


def variable_for(url: str) -> str | None:
    """Return the variable that names the proxy for an address, or None if it is asked directly."""
    from urllib.request import getproxies, proxy_bypass

    address = urlsplit(url)
    if not address.hostname or proxy_bypass(address.netloc.rpartition("@")[2]):
        return None
    ours = [f"{each}_proxy" for each in (address.scheme, "all") if getproxies().get(each)]
    return next((name for each in ours for name in os.environ if name.lower() == each), None)


def _usable(name: str, value: str) -> str:
    """Return a proxy as clients accept it."""
    if not value or value == UNUSABLE:
        return value
    value = re.sub("^socks://", "socks5://", value)  # desktops write it so
    try:
        proxy = urlsplit(value if "://" in value else f"http://{value}")
        why = None if proxy.scheme in SCHEMES else f"its scheme is {proxy.scheme!r}"
        why = why or (None if proxy.hostname else "it has no host")
        why = why or (None if proxy.port != 0 and value.isascii() and not re.search(r"\s", value) else "it is damaged")
    except ValueError:
        why = "it is damaged"
    if not why:
        return value
    problems.append(
        f"{name} names no proxy ({why}), so nothing outside this machine can be reached; set it to "
        "http://HOST:PORT or socks5://HOST:PORT, or unset it."
    )
    return UNUSABLE


def _is_readable(entry: str) -> bool:
    """Return whether httpx, which raises an error otherwise, can read an entry of `no_proxy`."""
    if re.fullmatch(r"(https?://)?[\w.*-]+(:\d+)?(/\d+)?", entry, re.ASCII):
        return True
    try:
        return bool(ip_address(entry))
    except ValueError:
        return False
