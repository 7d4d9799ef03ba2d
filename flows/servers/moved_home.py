"""A home that was moved or copied. MLflow stores whole addresses of artifacts, and they follow the home."""

import sqlite3
from contextlib import closing
from pathlib import Path

from flows.console import say
from pipelines.catalog.runs import former_artifacts

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""The columns of MLflow's database that hold addresses of artifacts."""


def follow_move(database: Path, artifacts: Path) -> None:
    """Let all addresses in a home's MLflow database name the folder where its artifacts are now.

    The runs of the home also remain runs of this home. The database of another home is left alone.
    """
    if artifacts != database.parent / "artifacts" or not (former := former_artifacts(database)):
        return
    places = [(str(former), str(artifacts)), (former.as_uri(), artifacts.as_uri())]

    def followed(address: str | None) -> str | None:
        for old, new in places:
            if address and (address == old or address.startswith(f"{old}/")):
                return new + address.removeprefix(old)
        return address

    homes = [str(each.parents[1]).replace("'", "") for each in (former, artifacts)]  # as `Home.label` writes them

    def labelled(label: str) -> str:
        host, _, home = label.partition(":")
        return f"{host}:{homes[1]}" if home == homes[0] else label

    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.create_function("followed", 1, followed)
        connection.create_function("labelled", 1, labelled)
        for table, column in ADDRESSES:
            connection.execute(f"UPDATE {table} SET {column} = followed({column})")  # noqa: S608 - names of our own
        connection.execute("UPDATE tags SET value = labelled(value) WHERE key = 'tokenmill.home'")
    say(f"The home was moved or copied here from {former.parents[1]}; MLflow finds its artifacts here now.")
