"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from flows.commands import completion
from pipelines.store.disks import full_disk

if TYPE_CHECKING:
    from flows.home import Home

Config = Annotated[
    Path, Argument(help="The run's TOML file, such as configs/quickstart.toml.", autocompletion=completion.configs)
]
Set = Annotated[list[str], Option("--set", metavar="KEY=VALUE", help="Override a value: --set pretrain.steps=100")]
Rebuild = Annotated[bool, Option(help="Run every step again and replace its result.")]
Pins = Annotated[
    list[str],
    Option(
        "--dataset",
        metavar="NAME",
        help="Pin a version, such as tokens@FINGERPRINT. May be repeated.",
        autocompletion=completion.datasets,
    ),
]
Model = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="NAME (its champion), NAME@ALIAS, NAME/VERSION, NAME@FINGERPRINT or model/NAME (the newest). "
        "By default the newest name that fits.",
        autocompletion=completion.models,
    ),
]
Reason = Annotated[str, Option(help="Why; it is stored with the model.")]
Temperature = Annotated[float, Option(min=0, help="0 takes the likeliest token; above 0, tokens are drawn.")]


def current_home() -> Home:
    """Return the home that the environment names. Imports it late, because help must be fast."""
    from flows.home import Home

    return Home.from_environment()


def resolve_reference(reference: str, home: Home) -> str:
    """Return a version of MLflow's registry as the store knows it, and any other reference as it is."""
    from pipelines.catalog import registry

    return registry.resolve_reference(reference, home.mlflow_uri)


@contextmanager
def naming_a_full_disk(home: Path) -> Iterator[None]:
    """Name a full disk in place of what failed because of it: a server that cannot start has other words.

    Raises:
        InputError: the disk takes no more.
    """
    try:
        yield
    except Exception as error:
        from pipelines.store.step import Stopped

        full = None if isinstance(error, Stopped) else full_disk([home], error)
        if full:
            raise full from error
        raise
