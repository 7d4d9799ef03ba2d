"""Where the servers of a home listen, and by which names other machines call them."""

import ipaddress
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from flows.servers.health import LOOPBACK
from pipelines.errors import InputError

LOCAL_NAMES = (LOOPBACK, "localhost", "[::1]")
"""Names by which this machine calls itself. They are always allowed."""

NAME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?)(:[0-9]{1,5})?")
"""A Host header: a name or an address, and a port or none."""


class Reach(NamedTuple):
    """Who can call the servers.

    host: the address where they listen beside 127.0.0.1. names: the names that a request to them may have in its Host
    header beside those of this machine; a name without a port is allowed alone and with the server's port.
    """

    host: str = LOOPBACK
    names: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Return whether other machines can call the servers."""
        return not ipaddress.ip_address(self.host).is_loopback

    @property
    def addresses(self) -> list[str]:
        """Return the addresses where the servers listen. This machine always finds them at 127.0.0.1."""
        if self.host in (LOOPBACK, "0.0.0.0"):  # noqa: S104 - what the user has asked for
            return [self.host]
        return ["0.0.0.0" if self.host == "::" else LOOPBACK, self.host]  # noqa: S104 - the same

    @property
    def own_names(self) -> list[str]:
        """Return the names that login links can have."""
        return [LOOPBACK, *(name for name in self.names if not re.search(r":[0-9]+$", name))]


def parse_reach(host: str, names: Iterable[str]) -> Reach:
    """Return the reach that the options `--host` and `--allow-host` ask for.

    Raises:
        InputError: an address or a name is none, or other machines would find no name that is allowed.
    """
    try:
        address = ipaddress.ip_address(LOOPBACK if host == "localhost" else host.strip("[]"))
    except ValueError:
        address = None
    if address is None or "%" in host:
        raise InputError(
            f"--host {host} is not an address; give one of this machine's, or 0.0.0.0 for all of them, and the name "
            "that others use with --allow-host."
        )
    names = list(names)
    for name in names:
        if not NAME.fullmatch(name.lower()):
            raise InputError(
                f"--allow-host {name} is not a name; give one as it is in an address, such as mill.example.org or "
                "192.168.1.5:4200, without http:// and without *."
            )
    allowed = tuple(dict.fromkeys(name.lower() for name in names))
    literal = f"[{address}]" if address.version == 6 else str(address)
    if not address.is_unspecified and literal not in LOCAL_NAMES:
        allowed = (literal, *(name for name in allowed if name != literal))
    found = Reach(str(address), allowed)
    if found.is_open and not allowed:
        raise InputError(
            f"--host {host} lets other machines in; name this one as they do, such as --allow-host mill.example.org "
            "or --allow-host 192.168.1.5. Requests with another name are refused."
        )
    return found


def host_headers(names: Iterable[str], port: int) -> list[str]:
    """Return the Host headers that names of a server on a port allow."""
    return [header for name in names for header in (name, f"{name}:{port}")]


def check_patterns(variable: str, patterns: str, port: int) -> None:
    """Raise an InputError if a variable allows any name at all, on a server that others can call.

    A page of another site can give this machine a name of its own (DNS rebinding), and would then be let in.
    """
    anything = host_headers(["any.name.invalid"], port)
    if any(fnmatchcase(name, pattern.strip()) for pattern in patterns.split(",") for name in anything):
        raise InputError(
            f"{variable}={patterns} allows every name, which other sites could use to reach this server; name those "
            "that you need with --allow-host."
        )
