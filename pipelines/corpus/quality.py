"""Quality: rules in SQL over statistics of each document, and published sets of rules by name.

A document that breaks a rule is rejected, with the rule as its reason and its statistics. So people can look at what
each rule caught.
"""

from __future__ import annotations  # DuckDB complains at exit about types that annotations keep

import re
from collections.abc import Collection, Iterable, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.errors import InputError

STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]


def _repeated(parts: str) -> str:
    length_of = "list_sum(list_transform({}, lambda part: length(part)))"
    return f"({length_of.format(parts)} - {length_of.format(f'list_distinct({parts})')}) / length(text)"


# Each statistic, as SQL over `text` and its parts `words`, `lines` and `paragraphs`.
STATISTICS = {
    "n_characters": "length(text)",
    "n_words": "len(words)",
    "n_lines": "len(lines)",
    "n_sentences": "len(regexp_extract_all(text, '[.!?…]+[\"”’)]*(\\s|$)|[。！？]+'))",
    "mean_word_length": "list_avg(list_transform(words, lambda w: length(w)))",
    "alphabetic_words": "len(list_filter(words, lambda w: regexp_matches(w, '\\pL'))) / len(words)",
    # Hash signs or ellipses per word, whichever are more.
    "symbol_ratio": "greatest(len(regexp_extract_all(text, '#')), len(regexp_extract_all(text, '…|\\.\\.\\.')))"
    " / len(words)",
    "stop_words": f"len(list_intersect({STOP_WORDS}, list_transform(words, lambda w: lower(w))))",
    "bullet_lines": "len(list_filter(lines, lambda l: regexp_matches(l, '^\\s*[-*•‣◦]'))) / len(lines)",
    "ellipsis_lines": "len(list_filter(lines, lambda l: regexp_matches(l, '(…|\\.\\.\\.)\\s*$'))) / len(lines)",
    "duplicate_lines": "1 - len(list_distinct(lines)) / len(lines)",
    "duplicate_paragraphs": "1 - len(list_distinct(paragraphs)) / len(paragraphs)",
    "duplicate_line_characters": _repeated("lines"),
    "duplicate_paragraph_characters": _repeated("paragraphs"),
    "upper_case": "len(regexp_extract_all(text, '\\p{Lu}')) / length(text)",
    "digits": "len(regexp_extract_all(text, '[0-9]')) / length(text)",
}


# Statistics that SQL cannot express well. They are computed only if a rule names them, and null otherwise.
TOP_NGRAMS = {f"top_{n}gram": n for n in (2, 3, 4)}
DUPLICATE_NGRAMS = {f"duplicate_{n}grams": n for n in range(5, 11)}
ON_DEMAND = (*TOP_NGRAMS, *DUPLICATE_NGRAMS, "bad_words")
COUNTS = {name for name in STATISTICS if name.startswith("n_")} | {"stop_words", "bad_words"}
STATISTICS_TYPE = pa.struct(
    [(name, pa.int64() if name in COUNTS else pa.float64()) for name in (*STATISTICS, *ON_DEMAND)]
)

PRESETS = {
    # Rae et al. 2021, Scaling language models: methods, analysis and insights from training Gopher, appendix A.1.1:
    # quality filtering, and repetition removal with the thresholds of its table A1.
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
        "duplicate_line_characters <= 0.2",
        "duplicate_paragraph_characters <= 0.2",
        "top_2gram <= 0.2",
        "top_3gram <= 0.18",
        "top_4gram <= 0.16",
        "duplicate_5grams <= 0.15",
        "duplicate_6grams <= 0.14",
        "duplicate_7grams <= 0.13",
        "duplicate_8grams <= 0.12",
        "duplicate_9grams <= 0.11",
        "duplicate_10grams <= 0.1",
    ),
    # Raffel et al. 2020, Exploring the limits of transfer learning with a unified text-to-text transformer, section
    # 2.2: the rules on whole pages. Those on lines are the cleaners `citations`, `c4_lines` and `boilerplate`.
    "c4": (
        "n_sentences >= 3",
        "not contains(lower(text), 'lorem ipsum')",
        "not contains(text, '{')",
        "bad_words = 0",  # true for all documents unless the config names a list
    ),
}

SEEN = {name: pa.string() for name in ("text", "source", "split", "language")} | {"n_bytes": pa.int64()}
COLUMNS = (*SEEN, *STATISTICS, *ON_DEMAND)
SCHEMA = pa.schema([*SEEN.items(), ("row", pa.int64()), *(STATISTICS_TYPE.field(name) for name in ON_DEMAND)])


def rules_of(keep: Sequence[str], has_list: bool = True) -> list[str]:
    """Return the rules that a config asks for, with presets spelled out.

    Raises:
        InputError: a rule is not SQL over the statistics, or it counts bad words but there is no list of them.
    """
    if not has_list and (rule := next((rule for rule in keep if "bad_words" in rule), None)):
        raise InputError(f"The rule {rule!r} counts bad words, but ingest.bad_words names no list of them.")
    rules = [rule for entry in keep for rule in PRESETS.get(entry, (entry,))]
    if not rules:
        return []
    database = _database()
    database.register("documents", SCHEMA.empty_table())
    for rule in rules:
        try:
            database.execute(_query([rule]))
        except duckdb.Error as error:
            reason = " ".join(str(error).split("\n")[0].split())
            known = f"neither a preset ({', '.join(PRESETS)}) nor SQL over {', '.join(COLUMNS)}"
            raise InputError(f"The rule {rule!r} is {known}: {reason}") from None
    return rules


def apply_rules(
    documents: pa.RecordBatch, rules: Sequence[str], bad_words: Collection[str] = ()
) -> tuple[pa.RecordBatch, pa.Array]:
    """Return documents with their statistics, and the rule that each document breaks, or null.

    Args:
        documents: rows with the columns of `documents.DOCUMENTS`, except the statistics.
        rules: SQL over `COLUMNS`.
        bad_words: the phrases that the statistic of that name counts, made by `bad_words_of`.
    """
    if not rules:
        return documents, pa.nulls(len(documents), pa.string())
    demanded = [name for name in ON_DEMAND if any(re.search(rf"\b{name}\b", rule) for rule in rules)]
    measured: list[dict[str, float]] = [{}] * len(documents)
    if demanded:
        measured = [_on_demand(text, demanded, bad_words) for text in documents["text"].to_pylist()]
    columns = {name: documents[name] for name in SEEN} | {"row": pa.array(range(len(documents)))}
    columns |= {
        name: pa.array([each.get(name) for each in measured], STATISTICS_TYPE.field(name).type) for name in ON_DEMAND
    }
    database = _database()
    database.register("documents", pa.table(columns))
    found = database.sql(_query(rules)).to_arrow_table()
    columns |= {name: found[name].combine_chunks() for name in STATISTICS}
    statistics = pa.StructArray.from_arrays(
        [columns[field.name].cast(field.type) for field in STATISTICS_TYPE], fields=list(STATISTICS_TYPE)
    )
    broken = pa.array(rules, pa.string()).take(found["broken"].combine_chunks())
    return documents.append_column("statistics", statistics), broken


def _on_demand(text: str, names: Sequence[str], bad_words: Collection[str]) -> dict[str, float]:
    counted = {"bad_words": bad_words_in(text, bad_words)} if "bad_words" in names else {}
    return repetition(text, names) | counted


def repetition(text: str, names: Sequence[str]) -> dict[str, float]:
    """Return the shares of a text's characters, without white space, that are in repeated runs of words.

    `top_{n}gram` counts the most frequent run of n words, if it occurs more than once. `duplicate_{n}grams` counts the
    runs of n words that occurred before (Rae et al. 2021, appendix A.1.1). A character in several runs counts once.
    """
    words = text.split()
    lengths = np.array([len(word) for word in words], np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)
    sizes = {name: n for name, n in (TOP_NGRAMS | DUPLICATE_NGRAMS).items() if name in names}
    shares: dict[str, float] = dict.fromkeys(sizes, 0.0)
    # The starts of runs of n words that may occur more than once, and the numbers of the runs.
    places, runs = np.arange(len(words)), ids
    for n in range(2, max(sizes.values(), default=0) + 1):
        places, runs = places[places + n <= len(words)], runs[places + n <= len(words)]
        pairs = runs * len(words) + ids[places + n - 1]
        _, first, runs, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        if not (counts > 1).any():
            break
        for name in (name for name, size in sizes.items() if size == n):
            if name in TOP_NGRAMS:  # the longest, if several are the most frequent
                begin = places[first]
                most = np.argmax(np.where(counts == counts.max(), ends[begin + n] - ends[begin], -1))
                begins = places[runs == most]
            else:
                begins = places[first[runs] != np.arange(len(runs))]
            within = np.zeros(len(words), bool)
            for i in range(n):
                within[begins + i] = True
            shares[name] = float(lengths[within].sum() / ends[-1])
        places, runs = places[counts[runs] > 1], runs[counts[runs] > 1]
    return shares


def bad_words_in(text: str, bad_words: Collection[str]) -> int:
    """Count the words and phrases of `bad_words_of` in a text, as whole words and in any case."""
    if not bad_words:
        return 0
    words = _plain(text)
    sizes = {phrase.count(" ") + 1 for phrase in bad_words}
    return sum(" ".join(words[i : i + n]) in bad_words for n in sizes for i in range(len(words) - n + 1))


def bad_words_of(lines: Iterable[str]) -> frozenset[str]:
    """Return the words and phrases of a list with one per line."""
    return frozenset(filter(None, (" ".join(_plain(line)) for line in lines)))


def _plain(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _query(rules: Sequence[str]) -> str:
    """Return one query for statistics and broken rules. Rules cannot read files (see `_database`)."""
    statistics = ", ".join(f"coalesce({expression}, 0) AS {name}" for name, expression in STATISTICS.items())
    broken = " ".join(f"WHEN NOT coalesce(({rule}), false) THEN {number}" for number, rule in enumerate(rules))
    return f"""
        WITH divided AS (
            SELECT *,
                list_filter(string_split_regex(text, '\\s+'), lambda w: w <> '') AS words,
                list_filter(string_split(text, chr(10)), lambda l: trim(l) <> '') AS lines,
                list_filter(string_split_regex(text, '\\n\\s*\\n'), lambda p: trim(p) <> '') AS paragraphs
            FROM documents
        ), measured AS (SELECT *, {statistics} FROM divided)
        SELECT {", ".join(STATISTICS)}, CASE {broken} END AS broken FROM measured ORDER BY row
    """  # noqa: S608 - rules cannot read files


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"threads": 1, "python_enable_replacements": False})
    database.execute("SET enable_external_access = false; SET lock_configuration = true")
    return database
