"""Which model a name means: never the newest while nobody knows what was decided about it."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from gpt.config import Config
from pipelines.catalog import registry
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.store.store import Store

TABLES = """
    CREATE TABLE model_versions (name, version, creation_time, current_stage);
    CREATE TABLE model_version_tags (name, version, key, value);
    CREATE TABLE registered_model_aliases (name, version, alias);
    CREATE TABLE registered_model_tags (name, key, value);
"""


class Number(Config):
    number: int


class Place(NamedTuple):
    store: Store
    database: Path
    first: Dataset
    second: Dataset

    def find(self, reference: str = "gpt", uri: str = "", warn: list[str] | None = None) -> Dataset:
        sentences = [] if warn is None else warn
        return registry.find_model(reference, self.store, uri or f"sqlite:///{self.database}", sentences.append)

    def change(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.database)) as database:
            for statement in statements:
                database.executescript(statement)
            database.commit()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A store with two versions of a model, the second of which was taken back for the first."""
    store = Store(tmp_path / "data")
    make = StepType("make", "model", 1, Number, lambda: {})
    steps = [make.using("gpt", Number(number=n), {}) for n in (1, 2)]
    first, second = (store.build(step, lambda out, scratch: {}, built_by={"mlflow_run_id": "r"}) for step in steps)
    found = Place(store, tmp_path / "mlflow.db", first, second)
    found.change(
        TABLES,
        f"""
        INSERT INTO model_versions VALUES ('gpt', 1, 1000, 'None'), ('gpt', 2, 2000, 'None');
        INSERT INTO model_version_tags VALUES ('gpt', 1, 'tokenmill.fingerprint', '{first.ref.fingerprint}'),
            ('gpt', 2, 'tokenmill.fingerprint', '{second.ref.fingerprint}'),
            ('gpt', 1, 'tokenmill.decision', 'promoted'), ('gpt', 2, 'tokenmill.decision', 'rolled back');
        INSERT INTO registered_model_aliases VALUES ('gpt', 1, 'champion');
        """,
    )
    return found


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def lock(path: Path, stack: ExitStack) -> None:
    holder = stack.enter_context(closing(sqlite3.connect(path)))
    holder.execute("BEGIN EXCLUSIVE")


def rename_column(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE registered_model_aliases RENAME COLUMN alias TO label")


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNREADABLE = {
    "its second half is gone": truncate,
    "it is another file": lambda path: path.write_text("The mill grinds slowly. " * 100),
    "it is empty": lambda path: path.write_bytes(b""),
    "it has a newer schema": rename_column,
    "it is a folder": become_folder,
}


@pytest.mark.parametrize("damage", [*UNREADABLE, "it is locked", "it may not be read"])
def test_unreadable_database_serves_only_versions_named_exactly(
    place: Place, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        if damage == "it is locked":
            connect = sqlite3.connect
            monkeypatch.setattr(sqlite3, "connect", lambda *a, **named: connect(*a, timeout=0.05, **named))
            lock(place.database, stack)
        elif damage == "it may not be read":  # root may read everything, so the system's answer is played
            access = os.access
            monkeypatch.setattr(os, "access", lambda path, mode: path != place.database and access(path, mode))
        else:
            UNREADABLE[damage](place.database)
        with pytest.raises(InputError, match=rf"The champion of 'gpt' is unknown: .*{place.database}.*gpt@FINGERPRINT"):
            place.find()
        for reference in ("gpt/1", "gpt@champion"):
            with pytest.raises(InputError, match=rf"{place.database} cannot be read"):
                place.find(reference)
        with pytest.raises(InputError, match="cannot be read"):
            registry.champion("gpt", place.store, f"sqlite:///{place.database}")
        fingerprint = place.second.ref.fingerprint
        for exact in (f"gpt@{fingerprint[:8]}", fingerprint[:12], "model/gpt"):
            assert place.find(exact).ref == place.second.ref


def test_server_that_is_away_serves_only_versions_named_exactly(place: Place) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    away = f"http://127.0.0.1:{port}"
    with pytest.raises(InputError, match=r"The champion of 'gpt' is unknown: .*127\.0\.0\.1.*gpt@FINGERPRINT"):
        place.find(uri=away)
    assert place.find(f"gpt@{place.second.ref.fingerprint[:8]}", away).ref == place.second.ref


def test_name_without_a_champion_is_its_newest_eligible_version(place: Place) -> None:
    assert place.find().ref == place.first.ref
    place.change("DELETE FROM registered_model_aliases")
    warned: list[str] = []
    assert place.find(warn=warned).ref == place.first.ref
    assert warned == [f"MLflow's registry has no champion 'gpt'; taking the newest, {place.first}."]
    place.change("UPDATE model_version_tags SET value = 'kept back' WHERE value = 'promoted'")
    with pytest.raises(InputError, match="each version was kept back or rolled back"):
        place.find()
    place.change("DELETE FROM model_version_tags WHERE key = 'tokenmill.decision'")
    assert place.find().ref == place.second.ref


def test_missing_registry_serves_the_only_version(place: Place) -> None:
    place.database.unlink()
    with pytest.raises(InputError, match=r"The champion of 'gpt' is unknown: .* is missing\."):
        place.find()
    place.store.remove(place.second)
    assert place.find().ref == place.first.ref


def test_alias_of_a_deleted_version_means_nothing(place: Place) -> None:
    place.change("UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE version = 1")
    assert place.find().ref == place.first.ref, "the second one was taken back"
    with pytest.raises(InputError, match="no model gpt@champion"):
        place.find("gpt@champion")


def test_champion_without_weights_is_not_replaced_by_another(place: Place) -> None:
    place.store.remove(place.first)
    with pytest.raises(InputError, match="Nothing called 'gpt@"):
        place.find()
    place.change("DELETE FROM model_version_tags WHERE key = 'tokenmill.fingerprint'")
    with pytest.raises(InputError, match="gpt/1 in MLflow's registry is no model of tokenmill"):
        place.find()


def test_database_that_nobody_can_write_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a read-only disk SQLite cannot make the file that a database with a log needs.
    place.change("PRAGMA journal_mode = WAL")
    connect = sqlite3.connect

    def on_a_read_only_disk(address: str, **named: bool) -> sqlite3.Connection:
        return connect(address if "immutable" in address else "file:/missing/db?mode=ro", **named)

    monkeypatch.setattr(sqlite3, "connect", on_a_read_only_disk)
    assert place.find().ref == place.first.ref
    place.database.with_name("mlflow.db-wal").write_bytes(b"not in the database yet")
    with pytest.raises(InputError, match="unable to open database file"):
        place.find()
