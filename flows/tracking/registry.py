"""Changes of MLflow's model registry: versions are registered, promoted, rejected and rolled back.

The alias `champion` marks the version that people get who ask for a name. A tag lists all champions of a name, the
present one last, so that a promotion can be taken back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.console import say
from flows.home import Home
from flows.servers.mlflow_database import ensure_mlflow_database
from pipelines.catalog import registry
from pipelines.catalog.registry import (
    CHALLENGER,
    CHAMPION,
    DECIDED,
    DECISION,
    HISTORY,
    PROMOTED,
    ROLLED_BACK,
    WHY,
    ModelVersion,
    champions_of,
    version_of,
)
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.visible import in_markdown

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def find_model(reference: str | None, home: Home | None = None, task: str = "language") -> Dataset:
    """Find the model that a reference names, by default in the environment's home, with warnings on standard error.

    Args:
        reference: the model; None takes the name of the newest model of the task, with a sentence that says so.
        home: the home to search.
        task: the statistic `task` of the models to choose from where none is named.

    Raises:
        InputError: there is no such model, or the registry has to be read and cannot be.
    """
    home = home or Home.from_environment()
    if reference is None:
        *others, reference = registry.names_of_task(task, home.store)
        among = f"; --model names another: {', '.join(reversed(others))}" if others else ""
        say(f"Taking {reference}, the {'newest' if others else 'only'} {registry.TITLES[task]}{among}.", "dim")
    return registry.find_model(reference, home.store, home.mlflow_uri, say)


def decision_on(version: ModelVersion) -> str | None:
    """Return the decision about a version and its reason, in a sentence or two; None before there is one."""
    tags = version.tags
    return f"{version} {tags[DECISION]}. {tags.get(WHY, '')}" if DECISION in tags else None


def undecided(version: ModelVersion) -> str:
    """Say that nothing was decided about a version, and how a person decides."""
    return f"{version} not decided: promote.enabled is false. {by_hand(version)}"


def by_hand(version: ModelVersion) -> str:
    """Name the command that makes a version the champion."""
    return f"`tokenmill promote {version}` makes it the champion."


def register_model(client: MlflowClient, home: Home, dataset: Dataset, run_id: str) -> None:
    """Log a published model as an MLflow model and register it as a challenger. The gate decides about it.

    Does nothing that was done before, so it may be killed anywhere and called again.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    from flows.tracking.entities import lineage_tags
    from flows.tracking.logged_model import log_model

    name = dataset.ref.name
    # A process that waited for the step finds it published, perhaps before its builder has registered it.
    with home.store.lock(f"registry-{name}"):
        if not any(model.name == name for model in client.search_registered_models(f"name = '{name}'")):
            client.create_registered_model(name)
        version = registered_version(client, name, run_id)
        if version is None:
            info = log_model(dataset, run_id)
            # The version's page shows its tags above all else, so those of the origin are with the logged model.
            tags = {"tokenmill.fingerprint": dataset.manifest.fingerprint}
            made = client.create_model_version(name, info.model_uri, run_id, tags=tags, model_id=info.model_id)
            version = str(made.version)
            listed = json.dumps([{"name": name, "version": version}])  # in the form that the logged model's page reads
            origin = lineage_tags(dataset, home.store.list())
            client.set_logged_model_tags(info.model_id, {**origin, MLFLOW_MODEL_VERSIONS: listed})
        if str(client.get_registered_model(name).aliases.get(CHAMPION)) != version:
            client.set_registered_model_alias(name, CHALLENGER, version)


def registered_version(client: MlflowClient, name: str, run_id: str) -> str | None:
    """Return the version of a model that a run has registered."""
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return str(versions[0].version) if versions else None


def set_champion(client: MlflowClient, name: str, version: int | str, why: str, tags: Mapping[str, str] = {}) -> None:
    """Make a version the champion. May be killed anywhere and called again: the decision is written last."""
    present = client.get_registered_model(name).aliases.get(CHAMPION)
    client.set_model_version_tag(name, str(version), WHY, why)
    if str(present) != str(version):
        history = [*champion_history(client, name, present), int(version)]
        client.set_registered_model_tag(name, HISTORY, ",".join(map(str, history)))
        client.set_registered_model_alias(name, CHAMPION, str(version))
    if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == str(version):
        client.delete_registered_model_alias(name, CHALLENGER)
    record_decision(client, name, version, PROMOTED, why, tags)


def record_decision(
    client: MlflowClient, name: str, version: int | str, decision: str, why: str, tags: Mapping[str, str] = {}
) -> None:
    """Write the decision about a version, and its reason, to the version."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for key, value in {WHY: why, DECIDED: now, **tags, DECISION: decision}.items():
        client.set_model_version_tag(name, str(version), key, value)
    client.update_model_version(
        name, str(version), description=f"{decision.capitalize()} {now[:10]}. {in_markdown(why)}"
    )


def champion_history(client: MlflowClient, name: str, present: int | str | None) -> list[int]:
    """Return the champions of a name in order, up to the present one, which a person may have set in MLflow's UI."""
    history = list(champions_of(client.get_registered_model(name).tags.get(HISTORY)))
    if present is None:
        return history
    if int(present) not in history:
        return [*history, int(present)]
    while history[-1] != int(present):
        history.pop()
    return history


def promote_by_hand(home: Home, reference: str, reason: str) -> str:
    """Make `NAME/VERSION` the champion, whatever the gate has decided; return a sentence on what was done.

    Raises:
        InputError: there is no such version, or it is the champion already.
    """
    name, _, number = reference.rpartition("/")
    if not name or not number.isdigit():
        raise InputError(f"{reference!r} names no version; it is NAME/VERSION, such as quickstart/2.")
    found = version_of(home.mlflow_uri, name, version=int(number))
    if CHAMPION in found.aliases:
        raise InputError(f"{found} is the champion already.")
    with home.store.lock(f"registry-{name}"):
        set_champion(_client(home), name, found.version, f"By hand: {reason}")
    return f"{found} is the champion now; `tokenmill rollback {name}` takes it back."


def roll_back(home: Home, name: str, reason: str) -> str:
    """Make the previous champion the champion again; return a sentence on what was done.

    Each further call goes back by one more champion.

    Raises:
        InputError: there is no champion, or none before it.
    """
    present = version_of(home.mlflow_uri, name, CHAMPION)
    client = _client(home)
    with home.store.lock(f"registry-{name}"):
        history = champion_history(client, name, present.version)[:-1]
        if not history:
            raise InputError(f"{present} is the first champion of its name; there is none to go back to.")
        record_decision(client, name, present.version, ROLLED_BACK, f"Taken back for {name}/{history[-1]}: {reason}")
        client.set_registered_model_tag(name, HISTORY, ",".join(map(str, history)))
        client.set_registered_model_alias(name, CHAMPION, str(history[-1]))
    return f"{name}/{history[-1]} is the champion again; `tokenmill promote {present}` brings the other back."


def _client(home: Home) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    ensure_mlflow_database(home.mlflow_uri, home.artifacts)
    return MlflowClient(home.mlflow_uri)
