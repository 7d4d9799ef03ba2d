"""Changes between two versions of a dataset: documents, rejections, tokens, config and statistics."""

from __future__ import annotations  # DuckDB complains at exit about types that annotations keep

from collections import Counter
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.catalog.catalog import explain_error
from pipelines.catalog.views import rows_of
from pipelines.changes import changes, flat
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.kinds import REJECTED, TOKENS, kind_of, parse_columns
from pipelines.store.store import Store

SHOWN = 20  # documents and tokens that a comparison lists


@dataclass(frozen=True)
class Document:
    """A document that was added, removed or changed."""

    doc_id: str
    source: str
    location: str
    text: str


@dataclass(frozen=True)
class DocumentChanges:
    """The differences between the documents of two corpora, or the examples of two sets.

    A removed and an added document count as one changed document if their source and their metadata are equal. Without
    metadata, their locations must be equal.

    resplit: the number of documents that are in both, but in another split.
    added, removed: the first few of them. changed: pairs of before and after.
    """

    before: int
    after: int
    same: int
    n_added: int
    n_removed: int
    n_changed: int
    resplit: int
    added: list[Document]
    removed: list[Document]
    changed: list[tuple[Document, Document]]
    by_source: list[tuple[str, str, int, int]]  # source, split, documents before and after


@dataclass(frozen=True)
class MovedToken:
    """A token whose share of all tokens changed, and its part of the divergence in bits."""

    text: str
    before: float
    after: float
    bits: float


@dataclass(frozen=True)
class TokenShift:
    """The difference between two distributions of tokens.

    divergence: Jensen-Shannon's, in bits: 0 for equal distributions, 1 for those that share no token (Lin 1991).
    """

    before: int
    after: int
    documents_changed: int
    divergence: float
    moved: list[MovedToken]


@dataclass(frozen=True)
class Comparison:
    """Two datasets of a kind side by side; a field that does not apply to the kind is None or empty."""

    a: Dataset
    b: Dataset
    config: list[tuple[str, str | None, str | None]]
    statistics: list[tuple[str, Any, Any]]
    inputs: list[tuple[str, str, str]]
    documents: DocumentChanges | None
    rejections: list[tuple[str, int, int]]
    tokens: TokenShift | None

    @property
    def same(self) -> bool:
        """Whether both datasets have the same bytes."""
        return self.a.manifest.digest == self.b.manifest.digest


def compare(a: Dataset, b: Dataset, store: Store) -> Comparison:
    """Compare two datasets of a kind; for tokens, also the corpora that they were made from.

    Raises:
        InputError: they are of different kinds, or a file is damaged.
    """
    kind = a.manifest.kind
    if b.manifest.kind != kind:
        raise InputError(f"{a} and {b} are of different kinds, {kind} and {b.manifest.kind}; compare like with like.")
    try:
        return _compare(a, b, store)
    except duckdb.Error as error:
        raise InputError(explain_error(error)) from None


def _compare(a: Dataset, b: Dataset, store: Store) -> Comparison:
    texts_a, texts_b = _texts(a, store), _texts(b, store)
    with duckdb.connect() as connection:
        documents, rejections = None, []
        if texts_a and texts_b and texts_a.manifest.digest != texts_b.manifest.digest:
            documents = _compare_documents(connection, texts_a, texts_b)
            rejections = _compare_rejections(connection, texts_a, texts_b)
        return Comparison(
            a=a,
            b=b,
            config=[(key, *pair) for key, pair in changes(flat(a.manifest.config), flat(b.manifest.config)).items()],
            statistics=_changed(a.manifest.statistics, b.manifest.statistics),
            inputs=[
                (role, str(before), str(after))
                for role, before, after in _changed(dict(a.manifest.inputs), dict(b.manifest.inputs))
            ],
            documents=documents,
            rejections=rejections,
            tokens=_compare_tokens(connection, a, b) if a.manifest.kind == "tokens" else None,
        )


def _texts(dataset: Dataset, store: Store) -> Dataset | None:
    """Return the dataset that holds a dataset's documents: itself, or the corpus that it was made from."""
    if kind_of(dataset.manifest.kind).texts:
        return dataset
    corpus = dataset.manifest.inputs.get("corpus")
    try:
        return store.open(corpus) if corpus else None
    except Damaged:
        raise
    except InputError:
        return None  # deleted since


# Documents


def _compare_documents(connection: duckdb.DuckDBPyConnection, a: Dataset, b: Dataset) -> DocumentChanges:
    _create_document_view(connection, "a", a)
    _create_document_view(connection, "b", b)
    # These tables hold ids, sources and places only; texts are read for the few documents that are shown.
    connection.execute(
        """
        CREATE TEMP TABLE removed AS SELECT doc_id, source, place FROM a WHERE doc_id NOT IN (SELECT doc_id FROM b);
        CREATE TEMP TABLE added AS SELECT doc_id, source, place FROM b WHERE doc_id NOT IN (SELECT doc_id FROM a);
        CREATE TEMP TABLE changed AS
            SELECT r.doc_id AS before, d.doc_id AS after, r.source, r.place
            FROM (SELECT * FROM removed QUALIFY count(*) OVER (PARTITION BY source, place) = 1) r
            JOIN (SELECT * FROM added QUALIFY count(*) OVER (PARTITION BY source, place) = 1) d USING (source, place);
        DELETE FROM removed WHERE doc_id IN (SELECT before FROM changed);
        DELETE FROM added WHERE doc_id IN (SELECT after FROM changed);
        """
    )

    def count(table: str) -> int:
        return len(connection.sql(f"FROM {table}"))

    by_source = connection.execute(
        """SELECT source, split, count(*) FILTER (side = 'a'), count(*) FILTER (side = 'b')
        FROM (SELECT 'a' AS side, source, split FROM a UNION ALL SELECT 'b', source, split FROM b)
        GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    before = _documents(connection, "changed", "before", "a")
    after = _documents(connection, "changed", "after", "b")
    return DocumentChanges(
        before=count("a"),
        after=count("b"),
        same=count("a") - count("removed") - count("changed"),
        n_added=count("added"),
        n_removed=count("removed"),
        n_changed=count("changed"),
        resplit=count("a JOIN b USING (doc_id) WHERE a.split <> b.split"),
        added=_documents(connection, "added", "doc_id", "b"),
        removed=_documents(connection, "removed", "doc_id", "a"),
        changed=list(zip(before, after, strict=True)),
        by_source=by_source,
    )


def _create_document_view(connection: duckdb.DuckDBPyConnection, name: str, dataset: Dataset) -> None:
    """Create a view of documents or examples; `place` identifies one within its source across versions."""
    view = kind_of(dataset.manifest.kind).texts
    rows = rows_of(dataset, view) if view else None
    assert view and rows is not None
    connection.register(f"rows_{name}", rows)
    doc_id = next(iter(parse_columns(view.columns)))
    metadata = "nullif(metadata, '{}')" if "metadata" in rows.schema.names else "NULL"
    connection.execute(
        f"CREATE TEMP VIEW {name} AS SELECT {doc_id} AS doc_id, source, location, split, text, "  # noqa: S608 - our own names
        f"coalesce({metadata}, location) AS place FROM rows_{name}"
    )


def _documents(connection: duckdb.DuckDBPyConnection, table: str, key: str, side: str) -> list[Document]:
    """Return the first documents that a table of ids names, with their texts from one side."""
    rows = connection.execute(
        f"""SELECT d.doc_id, d.source, d.location, left(d.text, 500)
        FROM (SELECT * FROM {table} ORDER BY source, place, {key} LIMIT {SHOWN}) t
        JOIN {side} d ON d.doc_id = t.{key} ORDER BY t.source, t.place, t.{key}"""  # noqa: S608 - our own names
    ).fetchall()
    return [Document(*row) for row in rows]


def _compare_rejections(connection: duckdb.DuckDBPyConnection, a: Dataset, b: Dataset) -> list[tuple[str, int, int]]:
    def count(dataset: Dataset) -> dict[str, int]:
        rows = rows_of(dataset, REJECTED)
        if rows is None:
            return {}
        connection.register("rejected", rows)
        return dict(connection.execute("SELECT reason, count(*) FROM rejected GROUP BY reason").fetchall())

    before, after = count(a), count(b)
    return [(reason, before.get(reason, 0), after.get(reason, 0)) for reason in sorted(before | after)]


# Tokens


def _compare_tokens(connection: duckdb.DuckDBPyConnection, a: Dataset, b: Dataset) -> TokenShift:
    connection.register("tokens_a", rows_of(a, TOKENS))
    connection.register("tokens_b", rows_of(b, TOKENS))
    changed = connection.execute(
        """SELECT count(*) FROM tokens_a x JOIN tokens_b y USING (doc_id)
        WHERE x.tokens::UINTEGER[] <> y.tokens::UINTEGER[]"""
    ).fetchall()[0][0]
    before, after = _count_tokens(connection, "tokens_a", a), _count_tokens(connection, "tokens_b", b)
    tokens = sorted(before | after)
    counts = np.array([[before[token], after[token]] for token in tokens], np.float64).reshape(-1, 2)
    totals = counts.sum(0)
    shares = counts / np.maximum(totals, 1)
    bits = jensen_shannon(shares[:, 0], shares[:, 1])
    most = np.argsort(-bits, kind="stable")[:SHOWN]
    return TokenShift(
        before=int(totals[0]),
        after=int(totals[1]),
        documents_changed=int(changed),
        divergence=float(bits.sum()),
        moved=[
            MovedToken(tokens[i].decode("utf-8", "replace"), float(shares[i, 0]), float(shares[i, 1]), float(bits[i]))
            for i in most
            if bits[i] > 0
        ],
    )


def _count_tokens(connection: duckdb.DuckDBPyConnection, view: str, dataset: Dataset) -> Counter[bytes]:
    """Count tokens by their bytes, so that different tokenizers can be compared."""
    from pipelines.tokens.tokenizer import FILE
    from pipelines.tokens.tokenizers import load_tokenizer

    token_bytes = load_tokenizer(dataset.file(FILE)).token_bytes
    counts = connection.execute(f"SELECT unnest(tokens) AS token, count(*) FROM {view} GROUP BY token").fetchall()  # noqa: S608 - our own names
    found: Counter[bytes] = Counter()
    for token, n in counts:
        found[token_bytes[token]] += n
    return found


def jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each outcome's part (V) of the Jensen-Shannon divergence of two distributions (V), in bits (Lin 1991)."""
    middle = (p + q) / 2

    def part(r: NDArray[np.float64]) -> NDArray[np.float64]:
        return r * np.log2(np.divide(r, middle, out=np.ones_like(r), where=(r > 0) & (middle > 0)))

    return (part(p) + part(q)) / 2


# Config and statistics


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(name, before.get(name), after.get(name)) for name in before | after if before.get(name) != after.get(name)]
