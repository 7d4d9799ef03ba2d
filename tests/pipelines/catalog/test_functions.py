"""The SQL functions over tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.catalog.catalog import connect, explain_error
from pipelines.catalog.functions import MACROS, Functions, ngram_hashes, ngrams
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens.characters import CharacterTokenizer
from pipelines.tokens.tokenizer import END_OF_TEXT
from pipelines.tokens.tokenizers import named_tokenizer

pytestmark = pytest.mark.integration


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def test_decode_inverts_encode(catalog: duckdb.DuckDBPyConnection) -> None:
    assert (
        rows(catalog, "SELECT decode(tokens) = text || '<|endoftext|>' FROM tokens JOIN documents USING (doc_id)")
        == [(True,)] * 5
    )
    assert rows(catalog, "SELECT decode(encode('Jesus wept.')), encode(NULL), decode(NULL)") == [
        ("Jesus wept.", None, None)
    ]


def test_half_a_character_decodes_to_a_replacement(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT decode(encode('🦙')[:1])")[0][0] == "\ufffd"


def test_each_dataset_decodes_with_its_own_tokenizer(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    made = corpus(store, texts=["abba", "cab"])
    letters = CharacterTokenizer(["a", "b", "c"], {"<|unk|>": 3, END_OF_TEXT: 4})
    tokens(store, made, "letters", letters)
    tokens(store, made, "pairs")
    query = "SELECT dataset, decode(tokens[:n_tokens - 1], dataset) FROM tokens ORDER BY ALL"
    assert rows(connect(store), query) == [("letters", "abba"), ("letters", "cab"), ("pairs", "abba"), ("pairs", "cab")]
    assert rows(connect(store), "SELECT encode('abc', 'letters')") == [([0, 1, 2],)]
    query = """SELECT dataset, string_agg(text, '|' ORDER BY position) FROM tokens_flat WHERE doc_id = 'd1'
        GROUP BY ALL ORDER BY ALL"""
    assert rows(connect(store), query) == [("letters", "c|a|b|<|endoftext|>"), ("pairs", "c|ab|<|endoftext|>")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.integers(0, 50256), max_size=20)), min_size=1, max_size=20), st.data())
def test_decode_equals_the_tokenizer_on_any_slice(lists: list[list[int] | None], data: st.DataObject) -> None:
    tokenizer = named_tokenizer("gpt2")
    at = data.draw(st.integers(0, len(lists) - 1))
    array = pa.array([None, *lists], pa.list_(pa.uint32()))[1:][at:]
    decoded = Functions(SimpleNamespace(tokenizer=lambda _: tokenizer)).decode(array, pa.array([""] * len(array)))
    assert decoded.to_pylist() == [None if ids is None else tokenizer.decode(ids) for ids in lists[at:]]


def test_token_outside_the_vocabulary_is_one_sentence(catalog: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, "SELECT decode([99999999])")
    assert explain_error(caught.value) == "Token id 99999999 lies outside the vocabulary, which has 50,257 tokens."


def test_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    connection = connect(tmp_path / "data")
    with pytest.raises(duckdb.Error) as caught:
        rows(connection, "SELECT encode('x')")
    assert explain_error(caught.value).startswith("No tokens dataset is published yet")


def test_context_is_the_text_around_a_position(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT context('d0', 1, 1), context('d0', 0, 1)") == [("Jesus wept", "Jesus we")]
    assert rows(catalog, "SELECT count(DISTINCT context(doc_id, 0, 2)) FROM tokens") == [(4,)]  # two begin alike


def test_phrase_is_found_with_and_without_a_space_before(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    texts = ["wept he wept, and wept", "swept", "he wept", "wept"]
    made = tokens(store, corpus(store, texts=texts))
    found = rows(connect(store), "SELECT doc_id, position, n_tokens FROM find_tokens('wept') ORDER BY ALL")
    ids = dict(rows(connect(store), "SELECT doc_id, tokens FROM tokens"))
    tokenizer = named_tokenizer("gpt2")
    wanted = [[*tokenizer.encode(spelled)] for spelled in ("wept", " wept")]
    expected = [
        (doc_id, at, len(spelled))
        for doc_id, each in sorted(ids.items())
        for at in range(len(each))
        for spelled in wanted
        if each[at : at + len(spelled)] == spelled
    ]
    assert found == expected and len(found) == 5
    assert made.manifest.kind == "tokens"


def test_phrase_is_not_found_across_two_documents(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    letters = CharacterTokenizer(["a", "b"], {"<|unk|>": 2, END_OF_TEXT: 3})
    tokens(store, corpus(store, texts=["v", "ab", "ba"]), tokenizer=letters)
    connection = connect(store)
    query = "SELECT len(_find(ids::UINTEGER[], 'ab', '')) FROM (VALUES ([1, 0]), ([1, 0, 1]), ([0])) t(ids)"
    assert rows(connection, query) == [(0,), (1,), (0,)]
    assert rows(connection, "SELECT doc_id, position FROM find_tokens('ab')") == [("d1", 0)]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=8)), min_size=1, max_size=8),
    st.text("ab", max_size=3),
    st.integers(0, 2),
)
def test_find_equals_a_search_of_every_row(lists: list[list[int] | None], phrase: str, skipped: int) -> None:
    tokenizer = SimpleNamespace(encode=lambda text: np.array([" ab".index(letter) for letter in text], np.uint32))
    functions = Functions(SimpleNamespace(tokenizer=lambda _: tokenizer))
    rows = pa.array([*([[1, 2]] * skipped), *lists], pa.list_(pa.uint32()))[skipped:]
    wanted = [*tokenizer.encode(phrase)]
    expected = [
        [
            {"position": i, "n_tokens": len(wanted)}
            for i in range(len(row or ()) if wanted else 0)
            if row and row[i : i + len(wanted)] == wanted
        ]
        for row in lists
    ]
    found = functions.find(rows, pa.array([phrase] * len(rows)), pa.array([""] * len(rows)))
    assert found.to_pylist() == expected


def test_concordance_shows_both_sides(catalog: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT "before", found, "after" FROM concordance('without', 1)"""
    assert rows(catalog, query) == [("ray", " without", " ce")] * 2


def test_diff_has_every_document_that_differs(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    letters = CharacterTokenizer(list("abc"), {"<|unk|>": 3, END_OF_TEXT: 4})
    other = CharacterTokenizer(list("acb"), {"<|unk|>": 3, END_OF_TEXT: 4})
    a = tokens(store, corpus(store, texts=["a", "b", "cc", "aa"]), tokenizer=letters)
    b = tokens(store, corpus(store, texts=["a", "b", "cc"], note="b"), tokenizer=other)
    query = "SELECT doc_id, change, tokens_before, tokens_after FROM diff('tokens@{}', '{}') ORDER BY doc_id"
    forth = rows(connect(store), query.format(a.manifest.fingerprint[:8], "scripture"))
    assert forth == [("d1", "changed", 2, 2), ("d2", "changed", 3, 3), ("d3", "removed", 3, None)]
    back = rows(connect(store), query.format(b.manifest.fingerprint[:8], a))
    assert [row[1] for row in back] == ["changed", "changed", "added"]
    assert rows(connect(store), query.format(a.manifest.fingerprint[:8], a)) == []
    with pytest.raises(duckdb.Error) as caught:
        rows(connect(store), query.format("0000", "tokens"))
    assert explain_error(caught.value).startswith("Nothing called 'tokens@0000'")


def test_ngrams(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT ngrams([1, 2, 3], 2), ngrams([1], 2), ngrams(NULL, 2)") == [
        ([[1, 2], [2, 3]], [], None)
    ]
    assert rows(catalog, "SELECT ngrams([1, 2], 0), ngrams([1, 2], NULL)") == [(None, None)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 5), max_size=9)), min_size=1, max_size=9), st.integers(1, 4)
)
def test_ngrams_and_hashes_cover_every_run_of_every_row(lists: list[list[int] | None], n: int) -> None:
    array = pa.array([[9], *lists], pa.list_(pa.uint32()))[1:]
    sizes = pa.array([n] * len(lists), pa.uint32())
    expected = [row and [row[i : i + n] for i in range(len(row) - n + 1)] for row in lists]
    assert ngrams(array, sizes).to_pylist() == expected
    hashes = ngram_hashes(array, sizes).to_pylist()
    pairs = {
        (tuple(run), h)
        for row, hashed in zip(expected, hashes, strict=True)
        for run, h in zip(row or (), hashed or (), strict=True)
    }
    assert len({run for run, _ in pairs}) == len({h for _, h in pairs}) == len(pairs)


def test_sample_text_is_the_text_of_its_window(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT sample_id, start, shard, context, tokens FROM samples WHERE split = 'train' ORDER BY sample_id"
    ids = rows(catalog, "SELECT flatten(list(tokens ORDER BY start)) FROM tokens WHERE shard = 0")[0][0]
    found = rows(catalog, query)
    assert len(found) >= 3
    for sample_id, start, shard, context, dataset in found:
        text = named_tokenizer("gpt2").decode(ids[start : start + context])
        assert (shard, context, dataset) == (0, 4, "scripture")
        assert rows(catalog, f"SELECT sample_text({sample_id}), sample_text({sample_id}, 'scripture')") == [
            (text, text)
        ]
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, "SELECT sample_text(1000)")
    assert explain_error(caught.value).startswith("There is no sample 1000 in samples/scripture@")


@pytest.mark.parametrize("name", MACROS)
def test_every_example_has_an_answer(catalog: duckdb.DuckDBPyConnection, name: str) -> None:
    example = MACROS[name][2].replace("Jesus wept", "wept").replace("And it came to pass", "wept")
    answer = rows(catalog, example.replace("tokens@0123abcd", "scripture").replace("quickstart/1", "small"))
    assert answer or name.startswith("diff")  # of a version and itself


AMBIGUOUS = "There are 2 tokens datasets (letters, pairs); name one as the last argument: the column dataset of the row"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT decode(tokens) FROM tokens",
        "SELECT token_text(1)",
        "SELECT encode('abc')",
        "SELECT context(doc_id, 0, 1) FROM tokens",
    ],
)
def test_nothing_is_decoded_where_tokenizers_differ(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset], query: str
) -> None:
    store = Store(tmp_path / "data")
    made = corpus(store, texts=["abba", "cab"])
    tokens(store, made, "letters", CharacterTokenizer(["a", "b", "c"], {"<|unk|>": 3, END_OF_TEXT: 4}))
    tokens(store, made, "pairs")
    with pytest.raises(duckdb.Error) as caught:
        rows(connect(store), query)
    assert explain_error(caught.value).startswith(AMBIGUOUS)


def test_one_tokenizer_of_several_datasets_needs_no_name(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    for name in ("first", "second"):
        tokens(store, corpus(store, name, texts=[f"the {name} text"]), name)
    query = "SELECT decode(tokens[:n_tokens - 1]) FROM tokens ORDER BY ALL"
    assert rows(connect(store), query) == [("the first text",), ("the second text",)]


def test_sample_text_of_several_datasets_asks_which(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset], samples: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    for name in ("first", "second"):
        samples(store, tokens(store, corpus(store, name, texts=[f"the {name} text goes on and on"] * 3), name))
    query = "SELECT DISTINCT dataset, sample_text(sample_id, dataset)[:10] FROM samples WHERE start = 0 ORDER BY ALL"
    assert rows(connect(store), query)[0][0] == "first"
    with pytest.raises(duckdb.Error) as caught:
        rows(connect(store), "SELECT sample_text(0)")
    assert explain_error(caught.value).startswith("There are 2 samples datasets (first, second); name one")
