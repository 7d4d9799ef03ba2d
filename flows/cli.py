"""The command line: it assembles the commands of `flows.commands` and turns errors into one sentence each.

Each command imports what it needs when it runs, so that help is fast.
"""

import gc
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from flows.commands import datasets
from flows.commands.classify import classify
from flows.commands.datasets import report, trace
from flows.commands.doctor import doctor
from flows.commands.evaluate import evaluate
from flows.commands.init import init
from flows.commands.models import chat, compare, generate, models, promote, reevaluate, rollback
from flows.commands.run import STEPS, run
from flows.commands.servers import down, env, schedule, serve, status, up
from flows.commands.sql import sql
from flows.current_folder import protect_process
from flows.environment import expand_user
from flows.terminal import prepare_streams
from pipelines.addresses import without_secrets
from pipelines.errors import ClearError, InputError, ServerAway, cause_of
from pipelines.store.disks import full_disk

COMMANDS: dict[str, list[Callable[..., None]]] = {
    "Runs": [init, run, *STEPS, evaluate],
    "Data": [trace, report, sql],
    "Models": [generate, classify, chat, compare, models, promote, reevaluate, rollback],
    "Servers": [up, down, status, env, schedule, serve, doctor],
}
"""The commands by the panel of the help that shows them."""

FILES = 4096
"""Files that may be open at once: datasets have many, and so have two servers."""

app = typer.Typer(
    name="tokenmill",
    help="Turns text that you own into a GPT that you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _as_called(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command as people call it: `~` in its paths is their home folder, and Ctrl-C ends it with one line."""

    @wraps(command)
    def called(**values: Any) -> None:
        try:
            command(**{name: expand_user(each) if isinstance(each, Path) else each for name, each in values.items()})
        except KeyboardInterrupt:
            from pipelines.store.step import Stopped

            raise Stopped("interrupted") from None  # typer would end without a word

    return called


for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(command.__name__, rich_help_panel=panel)(_as_called(command))
for registered in datasets.app.registered_commands:
    registered.callback = _as_called(registered.callback) if registered.callback else None
app.add_typer(datasets.app, name="datasets", rich_help_panel="Data")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenmill {version('tokenmill')}")
        raise typer.Exit


@app.callback()
def _set_options(
    debug: Annotated[bool, Option(help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["TOKENMILL_DEBUG"] = "1"


def main() -> None:
    """Run a command. Bad input is one sentence and exit code 2; a failed run is one sentence and exit code 1."""
    prepare_streams()
    # Imports make a million objects that stay. Searching them for garbage repeatedly would take a second.
    gc.set_threshold(50_000)
    protect_process()
    _raise_file_limit()
    if "TOKENMILL_DEBUG" not in os.environ and "--debug" not in sys.argv:
        warnings.simplefilter("ignore")  # ours are sentences; Python's are for the authors of packages
        os.environ["PYTHONWARNINGS"] = "ignore"  # for children, the tracker of leaked semaphores among them
    try:
        with _one_sentence():
            try:
                app()
            finally:
                sys.stdout.flush()  # an error of the output still becomes a sentence here
    except SystemExit as ended:
        outages = sys.modules.get("flows.tracking.outages")
        if (isinstance(ended.code, int) and ended.code > 100) or (outages and outages.unsent):
            sys.stderr.flush()
            os._exit(ended.code if isinstance(ended.code, int) else bool(ended.code))  # Python's own end takes seconds
        raise


def _raise_file_limit() -> None:
    """Raise the limit of open files, which some systems keep low, for this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _one_sentence() -> Iterator[None]:
    from pipelines.store.step import Stopped

    try:
        yield
    except InputError as error:
        _fail(error, 2)
    except (Stopped, KeyboardInterrupt) as error:
        from flows.orchestration.signals import exit_code

        _fail(error, exit_code())
    except Exception as error:
        from flows.orchestration.signals import exit_code, received

        home = os.environ.get("TOKENMILL_HOME") or "."
        cause = cause_of(error, InputError) or full_disk([Path(home).absolute()], error)
        code = 2 if cause else exit_code() if received else 1
        _fail(cause or cause_of(error, ServerAway) or error, code)


def _fail(error: BaseException, code: int) -> None:
    if "TOKENMILL_DEBUG" in os.environ:
        print(without_secrets("".join(traceback.format_exception(error))), file=sys.stderr)
        sys.exit(code)
    text = " ".join(without_secrets(str(error)).split()) or type(error).__name__
    clear = isinstance(error, ClearError) or code > 100
    hint = "" if clear else f" ({type(error).__name__}; --debug shows where.)"
    with suppress(InputError):  # standard error cannot be written either
        print(f"tokenmill: {text}{hint}", file=sys.stderr)
    traceback.clear_frames(error.__traceback__)  # Prefect keeps the error, and DuckDB warns of connections left open
    sys.exit(code)


if __name__ == "__main__":
    main()
