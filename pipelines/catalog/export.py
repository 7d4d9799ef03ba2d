"""The catalog as a plain DuckDB file, for tools that know DuckDB and no Python: its command line, DBeaver, Metabase.

Texts stay in place: `documents`, `rejected` and `examples` are views over the published Parquet files, by their
absolute paths, or copies of them on request. DuckDB alone cannot read token shards, which are Arrow files; the file has
their counts and lengths instead.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb

from pipelines.catalog import runs, tables
from pipelines.catalog.catalog import branch_query, connect_selection, explain_error, literal
from pipelines.catalog.selection import Selection
from pipelines.errors import InputError
from pipelines.store.files import whole_file
from pipelines.store.kinds import VIEWS, View
from pipelines.store.modes import give_usual_mode
from pipelines.store.store import Store

STORAGE_VERSION = "v1.0.0"  # DuckDB drivers of the last years can read it


TEXTS = [view.name for view in VIEWS.values() if view.export == "view"]


TABLES = {
    **{name: f"SELECT * FROM {name}" for name in (*tables.TABLES, *runs.TABLES) if name != "manifests"},  # noqa: S608 - names of our tables
    **{view.name: f"SELECT * FROM {view.name}" for view in VIEWS.values() if view.export == "table"},  # noqa: S608 - names of our tables
    "document_tokens": "SELECT dataset, doc_id, split, n_tokens, shard, start FROM tokens",
    "token_counts": """
        SELECT dataset, split, token_id, text, n
        FROM (SELECT dataset, split, token_id, count(*) AS n FROM tokens_flat GROUP BY ALL)
        JOIN vocabulary USING (dataset, token_id) ORDER BY dataset, split, n DESC""",
}


def export_catalog(
    store: Store, target: Path, mlflow_uri: str | None = None, datasets: Sequence[str] = (), copy_texts: bool = False
) -> dict[str, int]:
    """Write the catalog as a DuckDB file, which replaces an older one in one instant.

    Args:
        target: the file to write.
        datasets: versions to pin, as in `connect`.
        copy_texts: copy the texts, so that the file can be moved; otherwise it has views over Parquet files.

    Returns:
        Rows of each table and view.

    Raises:
        InputError: the file cannot be written, or a published file is damaged.
    """
    selection = Selection(store, datasets)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        connection = connect_selection(selection, mlflow_uri, external_access=True)
        with whole_file(target) as unfinished, connection:
            connection.execute(f"ATTACH {literal(str(unfinished))} AS file (STORAGE_VERSION '{STORAGE_VERSION}')")
            for name, query in TABLES.items():
                connection.execute(f"CREATE TABLE file.{name} AS {query}")
            for name in TEXTS:
                if copy_texts:
                    connection.execute(f"CREATE TABLE file.{name} AS SELECT * FROM main.{name}")  # noqa: S608 - names of our tables
                else:
                    connection.execute(f"CREATE VIEW file.{name} AS {_over_parquet(selection, VIEWS[name])}")
            rows = {name: len(connection.sql(f"FROM file.{name}")) for name in (*TABLES, *TEXTS)}
            connection.execute("DETACH file")
        give_usual_mode(target)
        return rows
    except (OSError, duckdb.IOException) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise InputError(f"{target} cannot be written ({why}); name another file.") from None
    except duckdb.Error as error:
        raise InputError(explain_error(error)) from None


def _over_parquet(selection: Selection, view: View) -> str:
    """Return a view's query on the Parquet files themselves."""
    branches = [view.empty_query]
    for label, dataset in selection.datasets_in(view):
        if files := dataset.files(view.files):
            paths = ", ".join(literal(str(path.absolute())) for path in files)
            branches.append(branch_query(view, label, dataset, f"read_parquet([{paths}], union_by_name = true)"))
    return " UNION ALL BY NAME ".join(branches)
