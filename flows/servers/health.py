"""Checks of a server's address: does it answer, and does it show a page."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pipelines.errors import InputError
from pipelines.proxies import variable_for

if TYPE_CHECKING:
    import httpx

    from flows.servers.secret import Secret

LOOPBACK = "127.0.0.1"

PATIENCE = 5.0
"""Seconds for a whole answer, however it arrives."""


def answers(base: str, wait: float = 0, secret: Secret | None = None) -> bool:
    """Return whether a server answers without an error of its own. A refusal without a login is an answer too.

    Args:
        base: the address; `/health` is added.
        wait: seconds to wait before the request.
        secret: the secret of the home whose server it is; a server of somebody else never gets it.
    """
    time.sleep(wait)
    answer = _get(base.rstrip("/") + "/health", {"Authorization": f"Bearer {secret.value}"} if secret else {})
    return answer is not None and not answer.is_server_error


def check_named(variable: str, url: str) -> None:
    """Raise an InputError if no server answers at the address that a variable names."""
    if not any(answers(url, attempt) for attempt in range(2)):
        through = f" through the proxy of {proxy}" if (proxy := variable_for(url)) else ""
        raise InputError(f"Nothing answers at {variable}={url}{through}; start that server, or unset the variable.")


def has_page(url: str) -> bool:
    """Return whether a browser finds a page. Prefect's and MLflow's servers may run without theirs."""
    answer = _get(url, {})
    if answer is None or answer.is_redirect or answer.status_code in (401, 403):
        return answer is not None
    return answer.is_success and "html" in answer.headers.get("Content-Type", "")


def _get(url: str, headers: dict[str, str]) -> httpx.Response | None:
    """Return the status and headers of an answer, or None. Its body is not read, and redirects are not followed."""
    found: list[httpx.Response] = []

    def ask() -> None:
        import httpx  # a third of a second

        verify = url.startswith("https:")  # certificates take 0.1 s to load
        try:
            with (
                httpx.Client(timeout=PATIENCE, verify=verify) as client,
                client.stream("GET", url, headers=headers) as answer,
            ):
                found.append(answer)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            pass

    # The timeout of a client counts for each read, so a server that drips would hold it for ever.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else None
