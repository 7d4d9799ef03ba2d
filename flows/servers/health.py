"""Whether a server answers, and whether it has pages to look at."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import Any

LOOPBACK = "127.0.0.1"


def answers(base: str, wait: float = 0) -> bool:
    """Whether a server is there and not broken; a refusal for want of a login is an answer too."""
    time.sleep(wait)
    try:
        with _get(base.rstrip("/") + "/health"):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def has_page(url: str) -> bool:
    """Whether there is something to look at; a temporary Prefect server has nothing."""
    try:
        with _get(url) as answer:
            return "html" in answer.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError):
        return False


def _get(url: str) -> Any:
    handlers = [urllib.request.ProxyHandler({})] if LOOPBACK in url else []
    return urllib.request.build_opener(*handlers).open(url, timeout=5)
