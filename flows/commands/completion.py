"""The names that a shell offers at the tab key: models, datasets and configs, found without reading a manifest.

An error ends in no offer: there is no good place for a sentence while somebody types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.home import Home

HARMLESS = re.compile(r"[\w.@/-]+")
"""Names that a shell and a terminal take as they are. Others are not offered."""

Complete = Callable[[str], list[str]]


def _offer(find: Callable[[str], Iterable[str]]) -> Complete:
    """Return a function that offers what begins with the typed text, and nothing after an error."""

    @wraps(find)
    def complete(incomplete: str) -> list[str]:
        try:
            found = sorted(set(find(incomplete)))
        except Exception:
            return []
        return [each for each in found if each.startswith(incomplete) and HARMLESS.fullmatch(each)]

    return complete


@_offer
def models(incomplete: str) -> Iterator[str]:
    """Offer the names of models; behind a whole name, its registered versions and aliases."""
    home = _home()
    names = {name for kind, name, _ in _published(home) if kind == "model"}
    yield from names
    name = re.split("[@/]", incomplete)[0]
    if name in names and home.mlflow_uri.startswith("sqlite:"):  # a server may take long to answer
        from pipelines.catalog.registry import registered

        for version in registered(home.mlflow_uri, name):
            yield from (str(version), *(f"{name}@{alias}" for alias in version.aliases))


@_offer
def datasets(incomplete: str) -> Iterator[str]:
    """Offer `KIND/NAME` of every dataset and the names alone; behind an `@`, the fingerprints."""
    what, at, _ = incomplete.partition("@")
    for kind, name, fingerprint in _published(_home()):
        fits = at and what in (kind, name, f"{kind}/{name}")
        yield from (f"{what}@{fingerprint}",) if fits else (name, f"{kind}/{name}")


@_offer
def kinds(incomplete: str) -> Iterator[str]:
    """Offer the kinds of datasets that were published."""
    yield from (kind for kind, _, _ in _published(_home()))


@_offer
def configs(incomplete: str) -> Iterator[str]:
    """Offer the TOML files of the folder that is typed, and of configs; where none fits, the shell offers all files."""
    folder = incomplete.rpartition("/")[0]
    yield from map(str, (Path(folder).expanduser() if folder else Path()).glob("*.toml"))
    yield from map(str, Path("configs").glob("*.toml"))


def _home() -> Home:
    from flows.home import Home

    return Home.from_environment()


def _published(home: Home) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and fingerprint of every dataset in the folder; of a bucket, as far as it was listed here."""
    root = home.path / "data"
    for path in (*root.glob("[!.]*/*-*"), *root.glob(".manifests/*/*-*.json")):
        name, _, fingerprint = path.name.removesuffix(".json").rpartition("-")
        yield path.parent.name, name, fingerprint
