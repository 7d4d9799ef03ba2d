"""Quality: rules in SQL over statistics of each document, and published sets of rules by name.

A document that a rule turns away is rejected with the rule as its reason and the statistics beside it, so that a
rule can be judged by looking at what it caught.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.errors import InputError

STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]

# Each statistic, as SQL over `text` and over `words`, `lines` and `paragraphs`, its parts.
STATISTICS = {
    "n_characters": "length(text)",
    "n_words": "len(words)",
    "n_lines": "len(lines)",
    "n_sentences": "len(regexp_extract_all(text, '[.!?…。！？]+(\\s|$)'))",
    "mean_word_length": "list_avg(list_transform(words, lambda w: length(w)))",
    "alphabetic_words": "len(list_filter(words, lambda w: regexp_matches(w, '\\pL'))) / len(words)",
    # Signs and ellipses for each word, which is Gopher's definition.
    "symbol_ratio": "len(regexp_extract_all(text, '#|…|\\.\\.\\.')) / len(words)",
    "stop_words": f"len(list_intersect({STOP_WORDS}, list_transform(words, lambda w: lower(w))))",
    "bullet_lines": "len(list_filter(lines, lambda l: regexp_matches(l, '^\\s*[-*•‣◦]'))) / len(lines)",
    "ellipsis_lines": "len(list_filter(lines, lambda l: regexp_matches(l, '(…|\\.\\.\\.)\\s*$'))) / len(lines)",
    "duplicate_lines": "1 - len(list_distinct(lines)) / len(lines)",
    "duplicate_paragraphs": "1 - len(list_distinct(paragraphs)) / len(paragraphs)",
    "upper_case": "len(regexp_extract_all(text, '\\p{Lu}')) / length(text)",
    "digits": "len(regexp_extract_all(text, '[0-9]')) / length(text)",
}
COUNTS = {name for name in STATISTICS if name.startswith("n_") or name == "stop_words"}
STATISTICS_TYPE = pa.struct([(name, pa.int64() if name in COUNTS else pa.float64()) for name in STATISTICS])

PRESETS = {
    # Rae et al. 2021, Scaling language models: methods, analysis and insights from training Gopher, appendix A.1.1:
    # the quality rules, and of the repetition rules those on whole lines and paragraphs.
    "gopher": (
        "n_words between 50 and 100000",
        "mean_word_length between 3 and 10",
        "symbol_ratio <= 0.1",
        "bullet_lines <= 0.9",
        "ellipsis_lines <= 0.3",
        "alphabetic_words >= 0.8",
        "stop_words >= 2",
        "duplicate_lines <= 0.3",
        "duplicate_paragraphs <= 0.3",
    ),
    # Raffel et al. 2020, Exploring the limits of transfer learning with a unified text-to-text transformer, section
    # 2.2: the rules on whole pages but for the list of bad words. Those on lines are the cleaners `boilerplate` and
    # `c4_lines`.
    "c4": (
        "n_sentences >= 3",
        "not contains(lower(text), 'lorem ipsum')",
        "not contains(text, '{')",
    ),
}

BATCH_BYTES = 4 << 20


def rules_of(keep: Sequence[str]) -> list[str]:
    """The rules that a config asks for, presets spelled out.

    Raises:
        InputError: a rule is not SQL over the statistics.
    """
    rules = [rule for entry in keep for rule in PRESETS.get(entry, (entry,))]
    for rule in rules:
        try:
            database = _database()
            database.register("documents", _table([]))
            database.execute(_query([rule]))
        except duckdb.Error as error:
            reason = " ".join(str(error).split("\n")[0].split())
            known = f"neither a preset ({', '.join(PRESETS)}) nor SQL over {', '.join(COLUMNS)}"
            raise InputError(f"The rule {rule!r} is {known}: {reason}") from None
    return rules


def judged(rows: Iterable[dict[str, Any]], rules: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows with their statistics, in order; those that a rule turns away get it as their reason."""
    if not rules:
        yield from rows
        return
    database, query = _database(), _query(rules)
    held: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row["text"] or "")
        if size >= BATCH_BYTES or len(held) >= 10_000:
            yield from _judge(database, query, held)
            held, size = [], 0
    yield from _judge(database, query, held)


def _judge(database: duckdb.DuckDBPyConnection, query: str, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    good = [row for row in rows if "reason" not in row]
    database.register("documents", _table(good))
    verdicts = database.sql(query).to_arrow_table().to_pylist() if good else []
    for row, verdict in zip(good, verdicts, strict=True):
        row["statistics"] = {name: verdict[name] for name in STATISTICS}
        if verdict["broken"] is not None:
            row["reason"] = f"quality: {verdict['broken']}"
    yield from rows


COLUMNS = ("text", "source", "split", "language", "n_bytes", *STATISTICS)


def _query(rules: Sequence[str]) -> str:
    """One query for statistics and verdicts. Rules are the config's own, and reach no file (see `_database`)."""
    statistics = ", ".join(f"coalesce({expression}, 0) AS {name}" for name, expression in STATISTICS.items())
    broken = " ".join(f"WHEN NOT coalesce(({rule}), false) THEN {_quoted(rule)}" for rule in rules)
    return f"""
        WITH divided AS (
            SELECT *,
                list_filter(string_split_regex(text, '\\s+'), lambda w: w <> '') AS words,
                list_filter(string_split(text, chr(10)), lambda l: trim(l) <> '') AS lines,
                list_filter(string_split_regex(text, '\\n\\s*\\n'), lambda p: trim(p) <> '') AS paragraphs
            FROM documents
        ), measured AS (SELECT *, {statistics} FROM divided)
        SELECT {", ".join(STATISTICS)}, CASE {broken} END AS broken FROM measured ORDER BY row
    """  # noqa: S608


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"threads": 1, "python_enable_replacements": False})
    database.execute("SET enable_external_access = false; SET lock_configuration = true")
    return database


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = ("text", "source", "split", "language")
    columns: dict[str, pa.Array] = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    columns["n_bytes"] = pa.array([row["n_bytes"] for row in rows], pa.int64())
    columns["row"] = pa.array(range(len(rows)), pa.int64())
    return pa.table(columns)
