"""The versions that a catalog shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipelines.catalog.catalog import connect
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens.characters import CharacterTokenizer
from pipelines.tokens.tokenizer import END_OF_TEXT


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def test_views_show_newest_versions_or_pinned_ones(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    letters = CharacterTokenizer(list(" dehlnortwx"), {"<|unk|>": 11, END_OF_TEXT: 12})
    old = tokens(store, corpus(store, texts=["old text"]), tokenizer=letters)
    new = tokens(store, corpus(store, texts=["new text"], note="new"), tokenizer=letters)
    other = tokens(store, corpus(store, "other", ["other text"]), "other", letters)
    assert rows(connect(store), "SELECT dataset, text FROM documents ORDER BY ALL") == [
        ("other", "other text"),
        ("scripture", "new text"),
    ]
    pinned = connect(store, datasets=[f"tokens@{old.manifest.fingerprint[:8]}"])
    assert rows(
        pinned, "SELECT dataset, text, decode(tokens[:8]) FROM documents JOIN tokens USING (dataset, doc_id)"
    ) == [("scripture", "old text", "old text")]
    both = connect(store, datasets=[str(old.ref), str(new.ref)])
    labels = [f"scripture@{dataset.manifest.fingerprint[:12]}" for dataset in (old, new)]
    assert rows(both, "SELECT dataset, decode(tokens[:8], dataset) FROM tokens ORDER BY 2 DESC") == [
        (labels[0], "old text"),
        (labels[1], "new text"),
    ]
    assert rows(both, f'SELECT decode(tokens[:10]) FROM versions."tokens/other@{other.manifest.fingerprint[:12]}"') == [
        ("other text",)
    ]


def test_unknown_pin_is_an_error(home: Path) -> None:
    with pytest.raises(InputError, match="Nothing called 'tokens@ffff0000'"):
        connect(home / "data", datasets=["tokens@ffff0000"])
