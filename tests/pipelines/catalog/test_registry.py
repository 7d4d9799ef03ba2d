"""MLflow's model registry, read from its database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pipelines.catalog.registry import champions_of, find_version, registered
from pipelines.errors import InputError


def test_versions_have_their_aliases_tags_and_history(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert registered(uri) == []
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.executescript(
            """
            CREATE TABLE model_versions (name, version, creation_time, current_stage);
            CREATE TABLE model_version_tags (name, version, key, value);
            CREATE TABLE registered_model_aliases (name, version, alias);
            CREATE TABLE registered_model_tags (name, key, value);
            INSERT INTO model_versions VALUES ('gpt', 10, 3000, 'None'), ('gpt', 9, 2000, 'None'),
                ('gpt', 1, 1000, 'Deleted_Internal'), ('chat', 1, 1000, 'None');
            INSERT INTO model_version_tags VALUES ('gpt', 9, 'tokenmill.fingerprint', 'f9');
            INSERT INTO registered_model_aliases VALUES ('gpt', 9, 'old'), ('gpt', 9, 'champion');
            INSERT INTO registered_model_tags VALUES ('gpt', 'tokenmill.champions', '1,9'), ('gpt', 'other', '2');
            """
        )
    assert [str(version) for version in registered(uri)] == ["chat/1", "gpt/9", "gpt/10"]
    champion = find_version(uri, "gpt", "champion")
    assert champion and (champion.fingerprint, champion.aliases, champion.history) == (
        "f9",
        ("champion", "old"),
        (1, 9),
    )
    assert find_version(uri, "gpt", version=10) and find_version(uri, "chat", "champion") is None


def test_history_ignores_what_is_no_number() -> None:
    assert champions_of("1, 2,x,") == (1, 2) and champions_of(None) == ()


def test_unreachable_registry_is_one_sentence() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        registered("postgresql+psycopg2://user:secret@127.0.0.1:1/none")
