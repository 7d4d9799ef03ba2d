"""The log of a flow run in Prefect: it holds the lines that the terminal shows, and the reason of a failure once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.logging.handlers import PrefectConsoleHandler

from flows.console import logging_lines


@contextmanager
def lines_in_prefect() -> Iterator[None]:
    """Send each line of the terminal to the log of the flow run, and of the task run that it belongs to.

    Where Prefect prints its log, as under `tokenmill schedule`, it prints the line in place of the terminal.
    """
    of_flow = get_run_logger()

    def write(level: int, line: str) -> bool:
        try:
            logger = get_run_logger()
        except MissingContextError:  # a thread of ours
            logger = of_flow
        logger.log(level, "%s", line.strip())
        return logger.isEnabledFor(level) and any(
            isinstance(each, PrefectConsoleHandler) and each.level <= level for each in logging.getLogger().handlers
        )

    _name_failures_once()
    with logging_lines(write):
        yield


def _name_failures_once() -> None:
    """Show the failure of a flow run as an error, and print that of its tasks, which is the same, no second time."""
    logging.getLogger("prefect.flow_runs").addFilter(_as_error)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_no_task_that_failed)


def _as_error(record: logging.LogRecord) -> bool:
    if _ends_in_failure(record):
        record.levelno, record.levelname = logging.ERROR, logging.getLevelName(logging.ERROR)
    return True


def _is_no_task_that_failed(record: logging.LogRecord) -> bool:
    return record.name != "prefect.task_runs" or not _ends_in_failure(record)


def _ends_in_failure(record: logging.LogRecord) -> bool:
    return record.getMessage().startswith("Finished in state Failed(")
