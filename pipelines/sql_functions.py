"""The functions that the SQL catalog adds to DuckDB: text to tokens and back, and places where tokens stand.

What runs over every row is written on Arrow's buffers, a block of rows at a time; the rest is SQL over that. A
function that needs a tokenizer takes the newest token dataset's, or that of the dataset named by its last argument.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError

if TYPE_CHECKING:
    import duckdb

    from pipelines.tokenizers import Tokenizer

MACROS = {
    "encode(text, dataset := '')": (
        "_encode(text, dataset)",
        "Token ids of a text: select encode('In the beginning')",
    ),
    "decode(tokens, dataset := '')": (
        "_decode(tokens::UINTEGER[], dataset)",
        "Text of token ids: select decode(tokens[:20]) from tokens limit 5",
    ),
    "token_text(token_id, dataset := '')": (
        "_token_text(token_id::UINTEGER, dataset)",
        "Text of one token: select token_text(262)",
    ),
    "ngrams(tokens, n)": (
        "_ngrams(tokens::UINTEGER[], n::UINTEGER)",
        "Every run of n tokens, as lists: select unnest(ngrams(tokens, 2)) from tokens",
    ),
    "context(doc_id, position, n)": (
        # Renamed columns, lest the caller's own `doc_id` be taken for this one.
        """(SELECT _decode(_tokens[greatest(position::BIGINT - n, 0) + 1 : position + n + 1]::UINTEGER[], _dataset)
            FROM (SELECT t.doc_id AS _doc_id, t.tokens AS _tokens, t.dataset AS _dataset FROM tokens t)
            WHERE _doc_id = doc_id LIMIT 1)""",
        "The text of n tokens on either side of a position: select context(doc_id, 40, 8) from tokens limit 5",
    ),
}


class Functions:
    """The functions over one catalog.

    tokenizer_of: gives the tokenizer of a token dataset by the name under which the catalog shows it; of the newest,
        for the empty name.
    """

    def __init__(self, tokenizer_of: Callable[[str], Tokenizer]) -> None:
        self._tokenizer = lru_cache(maxsize=None)(tokenizer_of)
        self._vocabulary = lru_cache(maxsize=None)(self._read_vocabulary)

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        functions: dict[str, tuple[Callable[..., Any], list[str], str]] = {
            "_encode": (self.encode, ["VARCHAR", "VARCHAR"], "UINTEGER[]"),
            "_decode": (self.decode, ["UINTEGER[]", "VARCHAR"], "VARCHAR"),
            "_token_text": (self.token_text, ["UINTEGER", "VARCHAR"], "VARCHAR"),
            "_ngrams": (ngrams, ["UINTEGER[]", "UINTEGER"], "UINTEGER[][]"),
        }
        for name, (function, parameters, returned) in functions.items():
            connection.create_function(name, function, parameters, returned, type="arrow", null_handling="special")

    def encode(self, texts: pa.Array, datasets: pa.Array) -> pa.Array:
        """(B) texts to (B) lists of token ids."""
        return _by_dataset(self._encode, datasets, texts)

    def decode(self, tokens: pa.Array, datasets: pa.Array) -> pa.Array:
        """(B) lists of token ids to (B) texts; bytes that are no whole character become U+FFFD."""
        return _by_dataset(self._decode, datasets, tokens)

    def token_text(self, ids: pa.Array, datasets: pa.Array) -> pa.Array:
        """(B) token ids to (B) texts."""
        return _by_dataset(self._token_text, datasets, ids)

    def _encode(self, dataset: str, texts: pa.Array) -> pa.Array:
        tokenizer = self._tokenizer(dataset)
        ids = [tokenizer.encode(text) if text is not None else None for text in texts.to_pylist()]
        offsets = np.cumsum([0, *(len(each) if each is not None else 0 for each in ids)], dtype=np.int32)
        values = np.concatenate([np.empty(0, np.uint32), *(each for each in ids if each is not None)]).astype(np.uint32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pc.is_null(texts))

    def _decode(self, dataset: str, tokens: pa.Array) -> pa.Array:
        if tokens.null_count:  # a null list may still cover values
            present = tokens.is_valid()
            texts = self._decode(dataset, pc.drop_null(tokens))
            return texts.take(pc.if_else(present, pc.subtract(pc.cumulative_sum(present.cast(pa.int64())), 1), None))
        pieces = self._take(dataset, tokens.flatten())
        # The bytes of all tokens lie one behind the other already, so a row's text is where its first token's bytes
        # begin to where the next row's do.
        bounds = np.frombuffer(pieces.buffers()[1], np.int64, len(pieces) + 1, pieces.offset * 8)
        rows = tokens.offsets.to_numpy()
        ends = np.ascontiguousarray(bounds[rows - rows[0]])
        joined = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(tokens), [None, pa.py_buffer(ends), pieces.buffers()[2]]
        )
        return _as_text(joined)

    def _token_text(self, dataset: str, ids: pa.Array) -> pa.Array:
        return _as_text(self._take(dataset, ids))

    def _take(self, dataset: str, ids: pa.Array) -> pa.Array:
        try:
            return self._vocabulary(dataset).take(ids)
        except pa.ArrowIndexError:
            size, which = len(self._vocabulary(dataset)), f" of {dataset!r}" if dataset else ""
            raise InputError(f"Token id {pc.max(ids)} lies outside the vocabulary{which}, which has {size:,} tokens.") from None

    def _read_vocabulary(self, dataset: str) -> pa.Array:
        return pa.array(self._tokenizer(dataset).token_bytes, pa.large_binary())


def ngrams(tokens: pa.Array, sizes: pa.Array) -> pa.Array:
    """(B) lists of token ids to (B) lists of all their runs of n."""
    rows = []
    for row, size in zip(tokens, sizes.to_pylist(), strict=True):
        if not row.is_valid or not size:
            rows.append(None)
            continue
        ids = row.values.to_numpy()
        rows.append(list(np.lib.stride_tricks.sliding_window_view(ids, size)) if len(ids) >= size else [])
    return pa.array(rows, pa.list_(pa.list_(pa.uint32())))


def _by_dataset(function: Callable[[str, pa.Array], pa.Array], datasets: pa.Array, values: pa.Array) -> pa.Array:
    """Call a function once for each dataset that the rows name: nearly always for one."""
    values, datasets = _one_array(values), _one_array(datasets)
    names = pc.unique(datasets).to_pylist()
    if len(names) == 1:
        return function(names[0] or "", values)
    results, places = [], []
    for name in names:
        chosen = np.flatnonzero(pc.equal(datasets, name) if name is not None else pc.is_null(datasets))
        results.append(function(name or "", values.take(pa.array(chosen))))
        places.append(chosen)
    order = np.argsort(np.concatenate(places))
    return pa.concat_arrays(results).take(pa.array(order))


def _one_array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _as_text(values: pa.Array) -> pa.Array:
    """Bytes as text: as they are if all of them are UTF-8, else each with its bad bytes replaced."""
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode("utf-8", "replace") for value in values.to_pylist()]
        return pa.array(texts, pa.large_string())
