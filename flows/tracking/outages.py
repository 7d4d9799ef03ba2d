"""What a person reads while MLflow does not answer."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException

from flows.console import warn
from flows.tracking.step_run import SENDER
from pipelines.addresses import without_secrets


class TrackingError(Exception):
    """MLflow did not answer for too long."""


@contextmanager
def explain_outages(uri: str) -> Iterator[None]:
    """Warn while MLflow's client waits for an answer; if it gives up, raise one sentence in place of its report.

    Args:
        uri: MLflow's tracking URI.

    Raises:
        TrackingError: MLflow did not answer for too long.
    """
    log, handler = logging.getLogger("urllib3.connectionpool"), _RetryHandler(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    except MlflowException as error:
        if not str(error).startswith("API request to http"):
            raise
        raise TrackingError(
            f"MLflow at {without_secrets(uri)} does not answer. What was built is kept; when it is back, run again: "
            "that goes on from here and tells MLflow what it has missed."
        ) from error
    finally:
        log.removeHandler(handler)


class _RetryHandler(logging.Handler):
    """Warns that the run waits for MLflow, which shows only in a log of retries. The sender thread may wait unseen."""

    warned_at = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        waits = "/mlflow/" in record.getMessage() and record.threadName != SENDER
        if waits and time.monotonic() - self.warned_at > 120:
            self.warned_at = time.monotonic()
            warn("MLflow does not answer; waiting for it.")
