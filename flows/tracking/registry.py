"""The models of a home: which one a name means, which versions there are, and who is champion.

Names and aliases are MLflow's registry's. The `champion` alias says what people get who ask for a name. Every champion
is remembered, in the order of their reigns, so that a promotion can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from flows.home import Home
from pipelines.catalog.registry import CHALLENGER, CHAMPION, HISTORY, ModelVersion, champions_of, find_version
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import hexadecimal

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DECISION, WHY, DECIDED = "tokenmill.decision", "tokenmill.why", "tokenmill.decided_at"


PROMOTED, KEPT_BACK, ROLLED_BACK = "promoted", "kept back", "rolled back"


def find_model(reference: str, home: Home | None = None) -> Dataset:
    """The model that a reference names.

    `NAME` is the champion of that name; `NAME@ALIAS` and `NAME/VERSION` are MLflow's registry's; `NAME@FINGERPRINT`, a
    fingerprint's first digits and `model/NAME` (the newest) are the store's. Where the registry knows no champion of
    a name, the newest version is taken, with a word on standard error.

    Raises:
        InputError: there is no such model.
    """
    home = home or Home.from_environment()
    name, at, alias = reference.partition("@")
    if at and not hexadecimal(alias):
        return _registered(home, name, alias=alias)
    name, slash, version = reference.rpartition("/")
    if slash and version.isdigit():
        return _registered(home, name, version=int(version))
    if at or slash:
        return home.store.open(reference, kind="model")
    return champion(home, reference) or _newest(home, reference)


def champion(home: Home, name: str) -> Dataset | None:
    """The champion of a name, if the registry has one and its weights are in the store."""
    try:
        found = find_version(home.mlflow_uri, name, CHAMPION)
        return home.store.open(f"{name}@{found.fingerprint}", kind="model") if found else None
    except InputError:
        return None


def _newest(home: Home, name: str) -> Dataset:
    newest = home.store.open(name, kind="model")
    if newest.ref.name == name:
        typer.echo(f"MLflow's registry knows no champion {name!r} that is here; taking the newest, {newest}.", err=True)
    return newest


def _registered(home: Home, name: str, alias: str = "", version: int | None = None) -> Dataset:
    found = version_of(home, name, alias, version)
    return home.store.open(f"{name}@{found.fingerprint}", kind="model")


def version_of(home: Home, name: str, alias: str = "", version: int | None = None) -> ModelVersion:
    """A registered version.

    Raises:
        InputError: the registry does not have it.
    """
    if found := find_version(home.mlflow_uri, name, alias, version):
        return found
    what = f"{name}@{alias}" if version is None else f"{name}/{version}"
    raise InputError(f"MLflow's registry has no model {what}; see `tokenmill models`.")


# Champions


def crown(client: MlflowClient, name: str, version: int | str, why: str, tags: Mapping[str, str] | None = None) -> None:
    """Make a version the champion. May be killed anywhere and called again: the decision is written last."""
    present = client.get_registered_model(name).aliases.get(CHAMPION)
    client.set_model_version_tag(name, str(version), WHY, why)
    if str(present) != str(version):
        reigns = [*_reigns(client, name, present), int(version)]
        client.set_registered_model_tag(name, HISTORY, ",".join(map(str, reigns)))
        client.set_registered_model_alias(name, CHAMPION, str(version))
    if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == str(version):
        client.delete_registered_model_alias(name, CHALLENGER)
    decided(client, name, version, PROMOTED, why, tags)


def decided(
    client: MlflowClient, name: str, version: int | str, decision: str, why: str, tags: Mapping[str, str] | None = None
) -> None:
    """Write down what was decided about a version, and why."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for key, value in {WHY: why, DECIDED: now, **(tags or {}), DECISION: decision}.items():
        client.set_model_version_tag(name, str(version), key, value)
    client.update_model_version(name, str(version), description=f"{decision.capitalize()} {now[:10]}. {why}")


def decision_on(version: ModelVersion) -> str | None:
    """What was decided about a version and why, in a sentence or two; None if nothing was yet."""
    tags = version.tags
    return f"{version} {tags[DECISION]}. {tags.get(WHY, '')}" if DECISION in tags else None


def _reigns(client: MlflowClient, name: str, present: int | str | None) -> list[int]:
    """The champions up to the present one, whom somebody may have chosen in MLflow's own UI."""
    reigns = list(champions_of(client.get_registered_model(name).tags.get(HISTORY)))
    while reigns and present and reigns[-1] != int(present):
        if int(present) not in reigns:
            return [*reigns, int(present)]
        reigns.pop()
    return reigns or ([int(present)] if present else [])


def promote_by_hand(home: Home, reference: str, reason: str) -> str:
    """Make `NAME/VERSION` the champion, whatever the gate says. Returns a sentence on what was done.

    Raises:
        InputError: there is no such version, or it is the champion already.
    """
    name, _, number = reference.rpartition("/")
    if not name or not number.isdigit():
        raise InputError(f"{reference!r} names no version; it is NAME/VERSION, such as quickstart/2.")
    found = version_of(home, name, version=int(number))
    if CHAMPION in found.aliases:
        raise InputError(f"{found} is the champion already.")
    with home.store.lock(f"registry-{name}"):
        crown(_client(home), name, found.version, f"By hand: {reason}")
    return f"{found} is the champion now; `tokenmill rollback {name}` takes it back."


def roll_back(home: Home, name: str, reason: str) -> str:
    """Give the champion's alias back to the champion before. Returns a sentence on what was done.

    Called again, it goes one champion further back.

    Raises:
        InputError: there is no champion, or none before it.
    """
    present = version_of(home, name, CHAMPION)
    client = _client(home)
    with home.store.lock(f"registry-{name}"):
        *before, _ = _reigns(client, name, present.version)
        if not before:
            raise InputError(f"{present} is the first champion of its name; there is none to go back to.")
        decided(client, name, present.version, ROLLED_BACK, f"Taken back for {name}/{before[-1]}: {reason}")
        client.set_registered_model_tag(name, HISTORY, ",".join(map(str, before)))
        client.set_registered_model_alias(name, CHAMPION, str(before[-1]))
    return f"{name}/{before[-1]} is the champion again; `tokenmill promote {present}` brings the other back."


def _client(home: Home) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(home.mlflow_uri)
