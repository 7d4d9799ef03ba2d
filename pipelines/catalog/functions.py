"""The functions that the SQL catalog adds to DuckDB: text to tokens and back, and places of tokens.

Functions of every row work on Arrow's buffers, a block of rows at a time; the rest is SQL over them. A function that
needs a tokenizer takes that of the dataset named by its last argument. Without one, it takes the only tokenizer there
is, and refuses to choose among several.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipelines.catalog.registry import find_model
from pipelines.catalog.runs import tracking_uri
from pipelines.catalog.selection import Selection
from pipelines.errors import InputError
from pipelines.store.kinds import PREDICTIONS

if TYPE_CHECKING:  # slow to import, and most queries need none
    from pipelines.tokens.samples import Samples
    from pipelines.tokens.shards import Tokens

# Signature: body, comment, example. A body renames or qualifies the columns of views, so that a column of the caller
# with the same name does not hide them.
MACROS = {
    "encode(text, dataset := '')": (
        "_encode(text, dataset)",
        "Token ids of a text.",
        "SELECT encode('In the beginning')",
    ),
    "decode(tokens, dataset := '')": (
        "_decode(tokens::UINTEGER[], dataset)",
        "Text of token ids.",
        "SELECT decode(tokens[:20], dataset) FROM tokens LIMIT 5",
    ),
    "token_text(token_id, dataset := '')": (
        "_token_text(token_id::UINTEGER, dataset)",
        "Text of one token.",
        "SELECT token_text(token_id, dataset) FROM vocabulary LIMIT 5",
    ),
    "sample_text(sample_id, dataset := '')": (
        "_sample_text(sample_id::BIGINT, dataset)",
        "Text of a training window.",
        "SELECT sample_text(sample_id, dataset) FROM samples LIMIT 5",
    ),
    "ngrams(tokens, n)": (
        "_ngrams(tokens::UINTEGER[], n::UINTEGER)",
        "Every run of n tokens.",
        "SELECT dataset, token_text(pair[1], dataset), token_text(pair[2], dataset), count(*) AS n "
        "FROM (SELECT dataset, unnest(ngrams(tokens, 2)) AS pair FROM tokens) GROUP BY ALL ORDER BY n DESC LIMIT 10",
    ),
    "ngram_hashes(tokens, n)": (
        "_ngram_hashes(tokens::UINTEGER[], n::UINTEGER)",
        "A 64-bit hash of every run of n tokens, to count and compare long runs by.",
        "SELECT dataset, count(DISTINCT run) "
        "FROM (SELECT dataset, unnest(ngram_hashes(tokens, 13)) AS run FROM tokens) GROUP BY dataset",
    ),
    "context(doc_id, position, n, dataset := '')": (
        """(SELECT _decode(_tokens[greatest(position::BIGINT - n, 0) + 1 : position + n + 1]::UINTEGER[], _dataset)
            FROM (SELECT t.doc_id AS _doc_id, t.tokens AS _tokens, t.dataset AS _dataset FROM tokens t)
            WHERE _doc_id = doc_id AND _dataset = _named(dataset) LIMIT 1)""",
        "Text of the n tokens on either side of a position, which counts from 0.",
        "SELECT context(doc_id, 40, 8, dataset) FROM tokens LIMIT 5",
    ),
    "find_tokens(phrase)": (
        """TABLE (
            SELECT dataset, doc_id, split, place.position, place.n_tokens
            FROM (SELECT t.dataset, t.doc_id, t.split, unnest(_find(t.tokens::UINTEGER[], phrase, t.dataset)) AS place
                  FROM tokens t))""",
        "Every place where a phrase's tokens stand, the phrase as it is and with a space before it.",
        "SELECT doc_id, count(*) AS places FROM find_tokens('Jesus wept') GROUP BY doc_id",
    ),
    "concordance(phrase, width := 10)": (
        """TABLE (
            SELECT dataset, doc_id, position, _decode(before, dataset) AS "before", _decode(found, dataset) AS found,
                _decode("after", dataset) AS "after"
            FROM (SELECT dataset, doc_id, place.position,
                      ids[greatest(place.position::BIGINT - width, 0) + 1 : place.position]::UINTEGER[] AS "before",
                      ids[place.position + 1 : place.position + place.n_tokens]::UINTEGER[] AS found,
                      ids[place.position + place.n_tokens + 1 : place.position + place.n_tokens + width]::UINTEGER[]
                          AS "after"
                  FROM (SELECT t.dataset, t.doc_id, t.tokens AS ids,
                            unnest(_find(t.tokens::UINTEGER[], phrase, t.dataset)) AS place
                        FROM tokens t)))""",
        "The same with `width` tokens of text on either side.",
        """SELECT "before", found, "after" FROM concordance('And it came to pass', 8) LIMIT 10""",
    ),
    "predictions_of(model)": (
        """TABLE (FROM query_table('versions."' || _predictions(model) || '"'))""",
        "Predictions of any version of a model: NAME/VERSION, NAME@FINGERPRINT, or NAME for the champion.",
        "SELECT item, model_loss / tokens AS loss FROM predictions_of('quickstart/1') ORDER BY loss DESC LIMIT 5",
    ),
    "diff(a, b)": (
        """TABLE (
            WITH x AS (SELECT *, hash(tokens) AS content FROM query_table('versions."' || _version(a) || '"')),
                y AS (SELECT *, hash(tokens) AS content FROM query_table('versions."' || _version(b) || '"'))
            SELECT doc_id, CASE WHEN x.content IS NULL THEN 'added' WHEN y.content IS NULL THEN 'removed'
                    WHEN x.content <> y.content THEN 'changed' ELSE 'moved' END AS change,
                x.split AS split_before, y.split AS split_after,
                x.n_tokens AS tokens_before, y.n_tokens AS tokens_after
            FROM x FULL JOIN y USING (doc_id)
            WHERE x.content IS DISTINCT FROM y.content OR x.split <> y.split)""",
        "Documents that were added, removed, changed or moved to another split between two versions of tokens.",
        "SELECT change, count(*) AS documents FROM diff('tokens@0123abcd', 'tokens') GROUP BY change",
    ),
}


def per_dataset(function: Callable[..., pa.Array]) -> Callable[..., pa.Array]:
    """Turn a function of one dataset's rows into one of (B) values and, as the last argument, (B) names of datasets.

    The function is called once for each dataset that the rows name, which is nearly always one.
    """

    @wraps(function)
    def call(self: Functions, *columns: pa.Array) -> pa.Array:
        *values, datasets = map(_one_array, columns)
        names = pc.unique(datasets).to_pylist()
        if len(names) == 1:
            return function(self, names[0] or "", *values)
        results, places = [], []
        for name in names:
            chosen = np.flatnonzero(pc.equal(datasets, name) if name is not None else pc.is_null(datasets))
            results.append(function(self, name or "", *(each.take(pa.array(chosen)) for each in values)))
            places.append(chosen)
        order = np.argsort(np.concatenate(places))
        return pa.concat_arrays(results).take(pa.array(order))

    return call


PLACES = "STRUCT(position UINTEGER, n_tokens UINTEGER)[]"


class Functions:
    """The functions over one catalog, which name a dataset as the catalog's views do."""

    def __init__(self, selection: Selection, mlflow_uri: str | None = None) -> None:
        self._selection, self._mlflow_uri = selection, mlflow_uri
        self._tokenizer = cache(selection.tokenizer)
        self._vocabulary = cache(lambda dataset: pa.array(self._tokenizer(dataset).token_bytes, pa.large_binary()))
        self._spellings = lru_cache(maxsize=256)(self._spell)
        self._windows = lru_cache(maxsize=16)(self._open_windows)

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add the functions to a connection, under names that begin with an underscore; `MACROS` call them."""
        functions: dict[str, tuple[Callable[..., Any], list[str], str]] = {
            "_encode": (self.encode, ["VARCHAR", "VARCHAR"], "UINTEGER[]"),
            "_decode": (self.decode, ["UINTEGER[]", "VARCHAR"], "VARCHAR"),
            "_token_text": (self.token_text, ["UINTEGER", "VARCHAR"], "VARCHAR"),
            "_sample_text": (self.sample_text, ["BIGINT", "VARCHAR"], "VARCHAR"),
            "_named": (self.named, ["VARCHAR"], "VARCHAR"),
            "_version": (self.version, ["VARCHAR"], "VARCHAR"),
            "_predictions": (self.predictions, ["VARCHAR"], "VARCHAR"),
            "_ngrams": (ngrams, ["UINTEGER[]", "UINTEGER"], "UINTEGER[][]"),
            "_ngram_hashes": (ngram_hashes, ["UINTEGER[]", "UINTEGER"], "UBIGINT[]"),
            "_find": (self.find, ["UINTEGER[]", "VARCHAR", "VARCHAR"], PLACES),
        }
        for name, (function, parameters, returned) in functions.items():
            connection.create_function(  # type: ignore[call-overload]  # the enums that it declares are not exported
                name, function, parameters, returned, type="arrow", null_handling="special"
            )

    def named(self, names: pa.Array) -> pa.Array:
        """Turn (B) names of token datasets into themselves, and empty ones into the name of the only one."""
        return pa.array([name or self._selection.only("tokens") for name in names.to_pylist()], pa.string())

    def version(self, names: pa.Array) -> pa.Array:
        """Turn (B) names of token datasets, or other references to them, into (B) references with a fingerprint."""
        return pa.array([str(self._selection.dataset("tokens", name)) for name in names.to_pylist()], pa.string())

    def predictions(self, models: pa.Array) -> pa.Array:
        """Turn (B) references to models into (B) names of the views of their predictions."""
        return pa.array([self._predictions_of(each) for each in models.to_pylist()], pa.string())

    def _predictions_of(self, reference: str) -> str:
        store = self._selection.store
        uri = self._mlflow_uri or tracking_uri(store.root)
        model = find_model(reference, store, uri, warn=lambda sentence: None)
        for each in reversed(store.list("evaluation")):
            if each.manifest.inputs.get("model") == model.ref:
                return f"{each.manifest.statistics['task']}_{PREDICTIONS.name}/{str(each).partition('/')[2]}"
        raise InputError(f"{model} has not been evaluated; `tokenmill evaluate CONFIG` does that.")

    @per_dataset
    def encode(self, dataset: str, texts: pa.Array) -> pa.Array:
        """Turn (B) texts into (B) lists of token ids."""
        tokenizer = self._tokenizer(dataset)
        ids = [tokenizer.encode(text) if text is not None else None for text in texts.to_pylist()]
        offsets = np.cumsum([0, *(len(each) if each is not None else 0 for each in ids)], dtype=np.int32)
        values = np.concatenate([np.empty(0, np.uint32), *(each for each in ids if each is not None)]).astype(np.uint32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pc.is_null(texts))

    @per_dataset
    def decode(self, dataset: str, tokens: pa.Array) -> pa.Array:
        """Turn (B) lists of token ids into (B) texts; bytes that are no whole character become U+FFFD."""
        present = tokens.is_valid()
        tokens = pc.drop_null(tokens)  # a null list may still cover values
        pieces = self._take(dataset, tokens.flatten())
        # The bytes of all tokens follow one another, so a row's text begins at its first token's bytes and ends where
        # the next row's text begins.
        bounds = np.frombuffer(pieces.buffers()[1], np.int64, len(pieces) + 1, pieces.offset * 8)
        rows = tokens.offsets.to_numpy()
        ends = np.ascontiguousarray(bounds[rows - rows[0]])
        joined = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(tokens), [None, pa.py_buffer(ends), pieces.buffers()[2]]
        )
        texts = _as_text(joined)
        if len(texts) == len(present):
            return texts
        return texts.take(pc.if_else(present, pc.subtract(pc.cumulative_sum(present.cast(pa.int64())), 1), None))

    @per_dataset
    def token_text(self, dataset: str, ids: pa.Array) -> pa.Array:
        """Turn (B) token ids into (B) texts."""
        return _as_text(self._take(dataset, ids))

    @per_dataset
    def sample_text(self, dataset: str, ids: pa.Array) -> pa.Array:
        """Turn (B) sample ids into (B) texts of their windows."""
        samples, tokens, places = self._windows(dataset)
        try:
            rows = places.take(ids).to_pylist()
        except pa.ArrowIndexError:
            raise InputError(f"There is no sample {pc.max(ids)} in {samples.dataset}; it has {len(places)}.") from None
        windows = [
            tokens.known(tokens.flat(row["shard"])[row["start"] : row["start"] + samples.context]) for row in rows
        ]
        return pa.array([tokens.tokenizer.decode(window.tolist()) for window in windows], pa.large_string())

    @per_dataset
    def find(self, dataset: str, tokens: pa.Array, phrases: pa.Array) -> pa.Array:
        """Find a phrase, the same for all rows, in (B) lists of token ids; returns (B) lists of places."""
        ids = tokens.flatten().to_numpy()
        starts = tokens.offsets.to_numpy() - tokens.offsets[0].as_py()
        spellings = self._spellings(phrases[0].as_py() or "", dataset)
        found = [(find_run(ids, wanted), len(wanted)) for wanted in spellings]
        places = np.concatenate([np.empty(0, np.int64), *(at for at, _ in found)])
        lengths = np.concatenate([np.empty(0, np.int64), *(np.full(len(at), n) for at, n in found)])
        rows = np.searchsorted(starts, places, side="right") - 1
        whole = places + lengths <= starts[rows + 1]  # leaves out a phrase that runs from one row into the next
        order = np.argsort(places[whole], kind="stable")
        places, lengths, rows = (each[whole][order] for each in (places, lengths, rows))
        structs = pa.StructArray.from_arrays(
            [pa.array((places - starts[rows]).astype(np.uint32)), pa.array(lengths.astype(np.uint32))],
            ["position", "n_tokens"],
        )
        offsets = np.searchsorted(rows, np.arange(len(tokens) + 1)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), structs)

    def _open_windows(self, dataset: str) -> tuple[Samples, Tokens, pa.Table]:
        from pipelines.tokens.samples import Samples
        from pipelines.tokens.shards import Tokens

        samples = Samples(self._selection.dataset("samples", dataset))
        tokens = Tokens(self._selection.store.open(samples.dataset.manifest.inputs["tokens"]))
        samples.check(tokens)
        return samples, tokens, pa.Table.from_batches(samples.batches).select(["shard", "start"])

    def _spell(self, phrase: str, dataset: str) -> list[NDArray[np.uint32]]:
        """Return the tokens of a phrase at the start of a text, and those after a space, if they differ."""
        plain, spaced = (self._tokenizer(dataset).encode(text) for text in (phrase, " " + phrase))
        if not len(plain):
            return []
        return [plain] if np.array_equal(spaced[-len(plain) :], plain) else [plain, spaced]

    def _take(self, dataset: str, ids: pa.Array) -> pa.Array:
        try:
            return self._vocabulary(dataset).take(ids)
        except pa.ArrowIndexError:
            size, which = len(self._vocabulary(dataset)), f" of {dataset!r}" if dataset else ""
            raise InputError(
                f"Token id {pc.max(ids)} lies outside the vocabulary{which}, which has {size:,} tokens."
            ) from None


def find_run(ids: NDArray[np.unsignedinteger], wanted: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
    """Return every place in a flat array where a run of ids begins; searches the highest id first: it is the rarest."""
    rarest = int(np.argmax(wanted))
    places = np.flatnonzero(ids == wanted[rarest]) - rarest
    places = places[(places >= 0) & (places <= len(ids) - len(wanted))]
    for i, token in enumerate(wanted):
        if i != rarest:
            places = places[ids[places + i] == token]
    return places


def ngrams(tokens: pa.Array, sizes: pa.Array) -> pa.Array:
    """Turn (B) lists of token ids into (B) lists of all their runs of n; n is the same for all rows, or null."""
    runs, offsets, missing = _runs(tokens, sizes)
    bounds = np.arange(len(runs) + 1, dtype=np.int32) * np.int32(runs.shape[1])
    lists = pa.ListArray.from_arrays(pa.array(bounds), pa.array(runs.reshape(-1)))
    return pa.ListArray.from_arrays(offsets, lists, mask=missing)


def ngram_hashes(tokens: pa.Array, sizes: pa.Array) -> pa.Array:
    """Turn (B) lists of token ids into (B) lists of a 64-bit hash of each of their runs of n."""
    runs, offsets, missing = _runs(tokens, sizes)
    hashes = np.full(len(runs), runs.shape[1], np.uint64)
    for column in runs.T:
        hashes = (hashes + column) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return pa.ListArray.from_arrays(offsets, pa.array(hashes), mask=missing)


def _runs(tokens: pa.Array, sizes: pa.Array) -> tuple[NDArray[np.uint32], pa.Array, pa.Array]:
    """Return all runs of n of a block of rows (R, n), where each row's runs begin (B + 1), and the null rows (B)."""
    tokens, size = _one_array(tokens), _one_array(sizes)[0].as_py() if len(sizes) else None
    present = np.asarray(tokens.is_valid()) & bool(size)
    size = size or 1
    ids = tokens.flatten().to_numpy()  # of the rows that are not null
    lengths = np.asarray(pc.fill_null(pc.list_value_length(tokens), 0), np.int64)
    counts = np.where(present, np.maximum(lengths - size + 1, 0), 0)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    places = np.repeat(np.cumsum(lengths) - lengths - offsets[:-1], counts) + np.arange(offsets[-1])
    runs = sliding_window_view(ids, size)[places] if len(places) else np.empty((0, size), np.uint32)
    return runs, pa.array(offsets.astype(np.int32)), pa.array(~present)


def _one_array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _as_text(values: pa.Array) -> pa.Array:
    """Return bytes as text; bad bytes are replaced if not all of them are UTF-8."""
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode("utf-8", "replace") for value in values.to_pylist()]
        return pa.array(texts, pa.large_string())
