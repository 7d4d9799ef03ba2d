"""What changed between two versions of a dataset: documents, what was left out, tokens, config and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.catalog.views import VIEWS, rows_of
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

SHOWN = 20  # documents and tokens that a comparison names


@dataclass(frozen=True)
class Document:
    """A document that was added, removed or changed."""

    doc_id: str
    source: str
    location: str
    text: str


@dataclass(frozen=True)
class DocumentChanges:
    """How the documents of two corpora, or the examples of two sets, differ.

    A removed and an added document are one changed document if they come from the same source and have the same
    metadata, or where there is none, the same location.

    resplit: documents of both that are not in the same split any more.
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
    """A token whose share of all tokens changed, and how much of the divergence is its doing, in bits."""

    text: str
    before: float
    after: float
    bits: float


@dataclass(frozen=True)
class TokenShift:
    """How two distributions of tokens differ.

    divergence: Jensen-Shannon's, in bits: 0 for equal distributions, 1 for those that share no token (Lin 1991).
    """

    before: int
    after: int
    documents_changed: int
    divergence: float
    moved: list[MovedToken]


@dataclass(frozen=True)
class Comparison:
    """Two datasets of a kind side by side; what does not apply to the kind is None or empty."""

    a: Dataset
    b: Dataset
    config: list[tuple[str, Any, Any]]
    statistics: list[tuple[str, Any, Any]]
    inputs: list[tuple[str, str, str]]
    documents: DocumentChanges | None
    rejections: list[tuple[str, int, int]]
    tokens: TokenShift | None

    @property
    def same(self) -> bool:
        return self.a.manifest.digest == self.b.manifest.digest


def compare(a: Dataset, b: Dataset, store: Store) -> Comparison:
    """Compare two datasets of a kind. Of tokens, the corpora that they were made from are compared as well.

    Raises:
        InputError: they are of different kinds.
    """
    kind = a.manifest.kind
    if b.manifest.kind != kind:
        raise InputError(f"{a} and {b} are of different kinds, {kind} and {b.manifest.kind}; compare like with like.")
    texts = _texts(a, store), _texts(b, store)
    differ = all(texts) and texts[0].manifest.digest != texts[1].manifest.digest  # type: ignore[union-attr]
    with duckdb.connect() as connection:
        return Comparison(
            a=a,
            b=b,
            config=_changed(_flat(a.manifest.config), _flat(b.manifest.config)),
            statistics=_changed(a.manifest.statistics, b.manifest.statistics),
            inputs=[
                (role, str(before), str(after))
                for role, before, after in _changed(dict(a.manifest.inputs), dict(b.manifest.inputs))
            ],
            documents=_compare_documents(connection, *texts) if differ else None,  # type: ignore[arg-type]
            rejections=_compare_rejections(connection, *texts) if differ else [],  # type: ignore[arg-type]
            tokens=_compare_tokens(connection, a, b) if kind == "tokens" else None,
        )


def _texts(dataset: Dataset, store: Store) -> Dataset | None:
    """The dataset in which a dataset's documents lie: itself, or the corpus that it was made from."""
    if dataset.manifest.kind in ("corpus", "examples"):
        return dataset
    corpus = dataset.manifest.inputs.get("corpus")
    try:
        return store.open(corpus) if corpus else None
    except InputError:
        return None  # deleted since


# Documents


def _compare_documents(connection: duckdb.DuckDBPyConnection, a: Dataset, b: Dataset) -> DocumentChanges:
    for name, dataset in (("a", a), ("b", b)):
        view = VIEWS["documents" if dataset.manifest.kind == "corpus" else "examples"]
        rows = rows_of(dataset, view)
        assert rows is not None
        connection.register(f"rows_{name}", rows)
        columns = rows.schema.names
        doc_id = "doc_id" if "doc_id" in columns else "example_id"
        metadata = "nullif(metadata, '{}')" if "metadata" in columns else "NULL"
        connection.execute(
            f"CREATE TEMP VIEW {name} AS SELECT {doc_id} AS doc_id, source, location, split, text, "  # noqa: S608
            f"coalesce({metadata}, location) AS place FROM rows_{name}"
        )
    # Only ids, sources and places are held; texts are fetched for the few that are shown.
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
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])  # noqa: S608

    def documents(table: str, key: str, source: str) -> list[Document]:
        rows = connection.execute(
            f"""SELECT d.doc_id, d.source, d.location, left(d.text, 500)
            FROM (SELECT * FROM {table} ORDER BY source, place, {key} LIMIT {SHOWN}) t
            JOIN {source} d ON d.doc_id = t.{key} ORDER BY t.source, t.place, t.{key}"""  # noqa: S608
        ).fetchall()
        return [Document(*row) for row in rows]

    by_source = connection.execute(
        """SELECT source, split, count(*) FILTER (side = 'a'), count(*) FILTER (side = 'b')
        FROM (SELECT 'a' AS side, source, split FROM a UNION ALL SELECT 'b', source, split FROM b)
        GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    before, after = count("a"), count("b")
    resplit = count("a JOIN b USING (doc_id) WHERE a.split <> b.split")
    pairs = connection.execute(
        f"""SELECT x.doc_id, x.source, x.location, left(x.text, 500), y.doc_id, y.source, y.location, left(y.text, 500)
        FROM (SELECT * FROM changed ORDER BY source, place LIMIT {SHOWN}) c
        JOIN a x ON x.doc_id = c.before JOIN b y ON y.doc_id = c.after ORDER BY c.source, c.place"""  # noqa: S608
    ).fetchall()
    return DocumentChanges(
        before=before,
        after=after,
        same=before - count("removed") - count("changed"),
        n_added=count("added"),
        n_removed=count("removed"),
        n_changed=count("changed"),
        resplit=resplit,
        added=documents("added", "doc_id", "b"),
        removed=documents("removed", "doc_id", "a"),
        changed=[(Document(*pair[:4]), Document(*pair[4:])) for pair in pairs],
        by_source=by_source,
    )


def _compare_rejections(connection: duckdb.DuckDBPyConnection, a: Dataset, b: Dataset) -> list[tuple[str, int, int]]:
    counts: list[dict[str, int]] = []
    for dataset in (a, b):
        rows = rows_of(dataset, VIEWS["rejected"])
        if rows is None:
            counts.append({})
            continue
        connection.register("rejected", rows)
        counts.append(dict(connection.execute("SELECT reason, count(*) FROM rejected GROUP BY reason").fetchall()))
    before, after = counts
    return [(reason, before.get(reason, 0), after.get(reason, 0)) for reason in sorted(before | after)]


# Tokens


def _compare_tokens(connection: duckdb.DuckDBPyConnection, a: Dataset, b: Dataset) -> TokenShift:
    for name, dataset in (("tokens_a", a), ("tokens_b", b)):
        connection.register(name, rows_of(dataset, VIEWS["tokens"]))
    changed = connection.execute(
        """SELECT count(*) FROM tokens_a x JOIN tokens_b y USING (doc_id)
        WHERE x.tokens::UINTEGER[] <> y.tokens::UINTEGER[]"""
    ).fetchall()[0][0]
    before, after = (_count_tokens(connection, name, each) for name, each in (("tokens_a", a), ("tokens_b", b)))
    tokens = sorted(before.keys() | after.keys())
    counts = np.array([[before.get(token, 0), after.get(token, 0)] for token in tokens], np.float64).reshape(-1, 2)
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


def _count_tokens(connection: duckdb.DuckDBPyConnection, view: str, dataset: Dataset) -> dict[bytes, int]:
    """How often each token occurs, by its bytes, so that different tokenizers can be compared."""
    from pipelines.tokens.tokenizers import load_tokenizer

    spelled = load_tokenizer(dataset.path).token_bytes
    counts = connection.execute(f"SELECT unnest(tokens) AS token, count(*) FROM {view} GROUP BY token").fetchall()  # noqa: S608
    found: dict[bytes, int] = {}
    for token, n in counts:
        found[spelled[token]] = found.get(spelled[token], 0) + n
    return found


def jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """(V) each outcome's part of the Jensen-Shannon divergence between two distributions (V), in bits (Lin 1991)."""
    middle = (p + q) / 2

    def part(r: NDArray[np.float64]) -> NDArray[np.float64]:
        return r * np.log2(np.divide(r, middle, out=np.ones_like(r), where=r > 0))

    return (part(p) + part(q)) / 2


# Config and statistics


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping of dotted names."""
    if isinstance(value, dict):
        parts = [_flat(each, f"{prefix}.{key}" if prefix else str(key)) for key, each in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = [_flat(each, f"{prefix}[{i}]") for i, each in enumerate(value)]
    else:
        return {prefix: value}
    return {key: each for part in parts for key, each in part.items()}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    names = list(dict.fromkeys([*before, *after]))
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
