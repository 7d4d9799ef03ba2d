"""What MLflow or Prefect refuse to store. A run goes on without it, because manifests hold everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flows.console import warn

REFUSED = (400, 409, 413, 422, 500)
"""Statuses by which Prefect's server says that it cannot store what it was sent."""


def is_refusal(error: Exception) -> bool:
    """Return whether an error says that MLflow or Prefect cannot store a value, while they can store others."""
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE" or status in REFUSED


@contextmanager
def going_without(what: str) -> Iterator[None]:
    """Show that something was refused, and go on."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        reason = " ".join(str(error).split())
        warn(f"{what} is left out: {reason[:300]}")
