"""Every published dataset and every tracked run as a DuckDB view.

    from pipelines.catalog import connect
    connect("data").sql("select split, sum(n_tokens) from tokens group by split")

The catalog is in memory and copies no data: a view reads a dataset's files when it is queried, token shards through a
memory map. A query cannot write through it, nor read any other file.
"""

from __future__ import annotations  # DuckDB complains at exit about types that annotations keep

import re
import secrets
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import duckdb

from pipelines.catalog import model_versions, readings, runs, step_metrics, tables
from pipelines.catalog.columns import arrow_schema
from pipelines.catalog.functions import MACROS, Functions
from pipelines.catalog.selection import Selection
from pipelines.catalog.views import DERIVED, DamagedTable, LazyTable, rows_of
from pipelines.errors import did_you_mean
from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.kinds import VIEWS, View, kind_of, parse_columns
from pipelines.store.store import Store


def connect(
    store: Store | Path | str,
    mlflow_uri: str | None = None,
    datasets: Sequence[str] = (),
    *,
    memory_limit: str = "50%",
    external_access: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Open the catalog of a store. Another thread needs a connection of its own: a cursor would not see the data.

    A view shows the newest version of each dataset, with the dataset's name in its first column. Every version, new
    or old, is also a view of its own, named like `versions."tokens/scripture@0123456789ab"`.

    Args:
        store: the store, or its folder.
        mlflow_uri: where runs are tracked; by default `MLFLOW_TRACKING_URI`, else the database beside the store.
        datasets: pins, such as `tokens@0123`: the views of that kind then show only the pinned datasets. Views of a
            kind without a pin show what the pinned datasets were made from.
        memory_limit: as DuckDB writes it; a query that needs more goes to the temporary folder.
        external_access: let queries read and write other files, and change settings.

    Raises:
        InputError: a pin fits no dataset, or fits several.
    """
    selection = Selection(store if isinstance(store, Store) else Store(store), datasets)
    return connect_selection(selection, mlflow_uri, memory_limit=memory_limit, external_access=external_access)


def connect_selection(
    selection: Selection, mlflow_uri: str | None = None, *, memory_limit: str = "50%", external_access: bool = False
) -> duckdb.DuckDBPyConnection:
    """Open a catalog that shows the datasets of a selection; arguments as in `connect`."""
    connection = duckdb.connect(":memory:")
    connection.execute("CREATE SCHEMA versions; CREATE SCHEMA tokenmill")
    Functions(selection, mlflow_uri).register(connection)
    damaged = [sentence for view in VIEWS.values() for sentence in _create_view(connection, selection, view)]
    sentences = ", ".join(map(literal, damaged))
    connection.execute(f"CREATE VIEW tokenmill.damaged AS SELECT unnest([{sentences}]::VARCHAR[])")
    for name, (query, comment) in DERIVED.items():
        connection.execute(f"CREATE VIEW {name} AS {query}")
        connection.execute(f"COMMENT ON VIEW {name} IS {literal(comment)}")
    runs_uri = mlflow_uri or runs.tracking_uri(selection.store.root)
    of_store = [(name, *table[:2], partial(tables.read, name, selection)) for name, table in tables.TABLES.items()]
    of_runs = [(name, *runs.TABLES[name], partial(runs.read, name, runs_uri)) for name in ("runs", "params")]
    of_models = [
        ("metrics", step_metrics.COLUMNS, step_metrics.COMMENT, partial(step_metrics.read, runs_uri)),
        ("models", model_versions.COLUMNS, model_versions.COMMENT, partial(model_versions.read, selection, runs_uri)),
        ("readings", readings.COLUMNS, readings.COMMENT, partial(readings.read, selection)),
    ]
    for name, columns, comment, make in of_store + of_models + of_runs:
        connection.register(name, LazyTable(arrow_schema(columns), make))
        connection.execute(f"COMMENT ON VIEW {name} IS {literal(comment)}")
    for signature, (body, comment, example) in MACROS.items():
        connection.execute(f"CREATE MACRO {signature} AS {body}")
        kind = "MACRO TABLE" if body.startswith("TABLE") else "MACRO"
        described = literal(f"{comment} For example: {example};")
        connection.execute(f"COMMENT ON {kind} {signature.partition('(')[0]} IS {described}")
    connection.execute(ABOUT)
    _restrict(connection, memory_limit, external_access)
    return connection


FIRST = ["documents", "tokens", "tokens_flat", "models", "evaluations", "predictions", "metrics", "runs", "datasets"]
"""The views that a person wants first."""


# Help and completion read these. They leave out the views of single versions.
ABOUT = f"""
    CREATE VIEW tokenmill.views AS
        SELECT view_name AS name, comment FROM duckdb_views() WHERE NOT internal AND schema_name = 'main'
        ORDER BY list_position({FIRST}, view_name) NULLS LAST, temporary, view_oid;
    CREATE VIEW tokenmill.functions AS
        SELECT function_name AS name, name || '(' || array_to_string(parameters, ', ') || ')' AS signature, comment
        FROM duckdb_functions() WHERE NOT internal AND comment IS NOT NULL ORDER BY name;
"""  # noqa: S608 - constants


def _create_view(connection: duckdb.DuckDBPyConnection, selection: Selection, view: View) -> list[str]:
    """Create a view over the selected datasets, and one over each version; return a sentence about each damaged one."""
    damaged: list[str] = []
    labels = {str(dataset.ref): label for label, dataset in selection.datasets_in(view)}
    branches = [view.empty_query]
    for dataset in selection.all:
        if view not in kind_of(dataset.manifest.kind).views or not view.shows(dataset.manifest):
            continue
        try:
            rows = rows_of(dataset, view)
        except Damaged as error:
            damaged.append(str(error))
            rows = DamagedTable(view, error)
        if rows is None:
            continue
        version = f"{view.name}/{dataset.manifest.name}@{dataset.manifest.fingerprint[:12]}"
        connection.execute("USE versions")  # `create_view` takes no name of a schema
        connection.from_arrow(rows).create_view(version)
        connection.execute("USE main")
        if label := labels.get(str(dataset.ref)):
            parsed = " REPLACE (metadata::JSON AS metadata)" if "metadata" in rows.schema.names else ""
            branches.append(branch_query(view, label, dataset, f"versions.{quoted(version)}", parsed))
    query = " UNION ALL BY NAME ".join(branches)
    if view.closed:
        columns = ", ".join(map(quoted, ["dataset", *parse_columns(view.columns)]))
        query = f"SELECT {columns} FROM ({query})"  # noqa: S608 - names are quoted
    connection.execute(f"CREATE VIEW {view.name} AS {query}")
    connection.execute(f"COMMENT ON VIEW {view.name} IS {literal(view.comment)}")
    return damaged


def branch_query(view: View, label: str, dataset: Dataset, rows: str, replaced: str = "") -> str:
    """Return the query of one dataset in a view: its name, its rows, the view's facts and its derived columns."""
    more = {**{name: literal(fact(dataset.manifest)) for name, fact in view.facts.items()}, **view.derived}
    columns = "".join(f", {value} AS {quoted(name)}" for name, value in more.items())
    return f"SELECT {literal(label)} AS dataset, *{replaced}{columns} FROM {rows}"  # noqa: S608 - values are quoted


# Safety


def _restrict(connection: duckdb.DuckDBPyConnection, memory_limit: str, external_access: bool) -> None:
    """Close everything that a query must not reach, for good: other files, extensions, settings."""
    spill = Path(tempfile.gettempdir()) / f"tokenmill-sql-{secrets.token_hex(8)}"  # made and removed by DuckDB
    settings: dict[str, str | bool] = {
        "memory_limit": memory_limit,
        "temp_directory": str(spill),
        "python_enable_replacements": False,  # `from x` does not mean the Python variable x
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if not external_access:
        settings |= {"enable_external_access": False, "lock_configuration": True}
    for name, value in settings.items():
        connection.execute(f"SET {name} = {literal(value)}")


WRAPPERS = (
    "^([A-Za-z ]+ (Error|Exception): )?"
    "((Python exception occurred while executing the UDF|exporting a stream .* failed): )?((InputError|Damaged): )?"
)
"""What DuckDB writes before a message."""


def explain_error(error: duckdb.Error, connection: duckdb.DuckDBPyConnection | None = None) -> str:
    """Return what was wrong with a query, as one sentence."""
    message = re.sub(WRAPPERS, "", str(error).partition("\n")[0])
    if re.search("disabled (by|through) configuration", message):
        what = re.search(r'"([^"]+)"', message)
        return (
            f"The catalog reads published datasets and nothing else, so {what[1] if what else 'an extension'} is out "
            "of reach; to keep a result, write it with --format."
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return "The query needs more memory than it may use; ask for fewer columns or rows, or aggregate first."
    if "configuration has been locked" in message:
        return "The catalog's settings are locked, so that a query cannot open what they close."
    unknown = re.search(r"with name (\S+) does not exist", message)
    if unknown and isinstance(error, duckdb.CatalogException):
        names = "SELECT name, NULL FROM tokenmill.views UNION SELECT name, comment FROM tokenmill.functions"
        known = dict(connection.execute(names).fetchall()) if connection else {}
        if comment := known.get(unknown[1]):
            return f"{unknown[1]}() is a function; call it so: {comment.partition('For example: ')[2]}"
        hint = did_you_mean(unknown[1], list(known), "`show tables` lists the views.")
        if re.search(r"versions\.\S+/", str(error)):
            hint = f"a version's view is in a schema of its own: versions.{quoted(unknown[1])}."
        return f"There is no {unknown[1]!r}; {hint}"
    column = re.search(r'(?:column|column named) "([^"]+)"', message)
    if column and (candidates := re.search(r"^Candidate bindings: :? *(.+)$", str(error), re.MULTILINE)):
        return f'There is no column "{column[1]}" here; did you mean {candidates[1]}?'
    if connection and isinstance(error, duckdb.BinderException):
        for (damage,) in connection.execute("FROM tokenmill.damaged").fetchall():  # such a file may lack the column
            return f"{message} But {damage}"
    if line := re.search(r"^LINE (\d+):", str(error), re.MULTILINE):
        message = f"{message.rstrip('.!')}, in line {line[1]}"
    return message if message.endswith((".", "?", "!")) else message + "."


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | int | bool | None) -> str:
    """Return a value as an SQL literal."""
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
