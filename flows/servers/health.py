"""Checks of a server's address: does it answer, and does it show a page."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

LOOPBACK = "127.0.0.1"


def answers(base: str, wait: float = 0) -> bool:
    """Return whether a server answers without an error of its own. A refusal without a login is an answer too.

    Args:
        base: the address; `/health` is added.
        wait: seconds to wait before the request.
    """
    time.sleep(wait)
    answer = _get(base.rstrip("/") + "/health")
    return answer is not None and not answer.is_server_error


def has_page(url: str) -> bool:
    """Return whether a browser finds a page. A temporary Prefect server has none."""
    answer = _get(url)
    if answer is not None and answer.is_success:
        return "html" in answer.headers.get("Content-Type", "")
    return answer is not None and answer.status_code in (401, 403)


def _get(url: str) -> httpx.Response | None:
    import httpx  # a third of a second

    trust_env = LOOPBACK not in url  # this machine is never asked through a proxy
    verify = url.startswith("https:")  # certificates take 0.1 s to load
    try:
        return httpx.get(url, timeout=5, follow_redirects=True, trust_env=trust_env, verify=verify)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None
