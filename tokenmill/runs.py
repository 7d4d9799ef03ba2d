"""Runs of the whole chain, as `tokenmill run` does them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flows.home import Home
    from flows.outcome import Outcome
    from pipelines.config import RunConfig


def run(
    config: str | Path | Mapping[str, Any],
    *,
    set: Sequence[str] = (),
    until: Literal["ingest", "tokenize", "sample", "pretrain", "finetune", "evaluate"] = "evaluate",
    rebuild: bool = False,
    name: str = "",
    note: str = "",
    tags: Sequence[str] = (),
    home: str | Path | None = None,
) -> list[Outcome]:
    """Carry out a run and return the outcome of each step: `step`, `dataset`, `seconds`, `reused`, `summary`.

    What is published already is reused. Progress and warnings go to standard error.

    Args:
        config: a TOML file, the name of a shipped one, or the same tables as a dictionary.
        set: changes to it, `section.key=value` each.
        until: the last step.
        rebuild: run every step again and replace its result.
        name: the run's name in MLflow and Prefect; by default, what differs from the run before.
        note: the run's description.
        tags: `KEY=VALUE`, or a word each.
        home: the home folder.

    Raises:
        InputError: the config or a source is wrong.
    """
    from flows.commands.options import naming_a_full_disk
    from flows.commands.run import carry_out, made_before
    from flows.label import make_label
    from flows.orchestration.signals import received

    run, label = _config(config, set), make_label(name, note, tags, set)
    received.clear()  # a signal that ended an earlier run of this process
    with _environment_of(home) as place, naming_a_full_disk(place.path):
        made = made_before(place, run, until, rebuild or label.is_given)
        parameters = {"label": label, "rebuild": rebuild}
        return made or carry_out(place, "run" if until == "evaluate" else until, run, parameters)


def _config(config: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    import orjson

    from pipelines.config import load_config, parse_config
    from pipelines.overrides import apply_override

    if not isinstance(config, Mapping):
        return load_config(config, overrides)
    values = orjson.loads(orjson.dumps(dict(config), default=os.fspath))  # a copy, in which paths are texts
    for override in overrides:
        apply_override(values, override)
    return parse_config(values, "The config", overrides)


@contextmanager
def _environment_of(home: str | Path | None) -> Iterator[Home]:
    """Yield a home while this process has the variables and the file modes of the command line."""
    from flows.home import Home

    before, mask = dict(os.environ), os.umask(0o077)
    os.umask(mask)
    try:
        if home is not None:
            os.environ["TOKENMILL_HOME"] = str(home)
        yield Home.from_environment()
    finally:
        os.umask(mask)
        for variable in os.environ.keys() - before.keys():
            del os.environ[variable]
        os.environ.update(before)
