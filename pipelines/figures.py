"""What there is to see in each kind of dataset: figures and tables for reports, and for MLflow's pages of each run.

`parts` is the whole of it: for a dataset, the pictures and tables that show what is in it. Texts in them come from
users' data; whoever writes them into a page escapes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipelines import charts, runs
from pipelines.charts import Axis, Series, short
from pipelines.compare import LOWER_IS_BETTER
from pipelines.corpus.documents import Corpus
from pipelines.errors import InputError
from pipelines.evaluation import MODEL
from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens

EXAMPLES = 3  # of what a rule rejected
SHOWN = 200  # characters of a text in a table


@dataclass(frozen=True)
class ReadToken:
    """A token as a model met it. strength: how much of a surprise it was, 0 to 100; title: what it expected."""

    text: str
    strength: int
    title: str


@dataclass(frozen=True)
class Part:
    """A figure, a table, texts to read, or a figure with the table of its numbers.

    title: what it shows; unique among the parts of a dataset.
    note: what to make of it, in a sentence.
    svg: the figure.
    columns, rows: the table.
    texts: (title, text) of each.
    tokens: a text token by token.
    wide: the figure wants the width of the page.
    """

    title: str
    note: str = ""
    svg: str = ""
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    texts: Sequence[tuple[str, str]] = ()
    tokens: Sequence[ReadToken] = ()
    wide: bool = False


def parts(dataset: Dataset, inputs: Mapping[str, Dataset], warn: Callable[[str], None]) -> Iterator[Part]:
    """What there is to see in a dataset. What cannot be drawn is warned of: no result depends on it.

    Args:
        inputs: what it was made from, by role; figures that need an input that is not among them are left out.
    """
    try:
        yield from _parts(dataset, inputs)
    except Exception as error:
        warn(f"not all of {dataset} could be drawn ({type(error).__name__}: {error})")


def _parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    kind = dataset.manifest.kind
    if kind == "corpus":
        yield from corpus_parts(dataset)
    elif kind == "examples":
        yield from examples_parts(dataset)
    elif kind == "tokens":
        yield from tokens_parts(dataset, inputs.get("corpus"))
    elif kind == "model":
        yield from training_parts(dataset)
        if dataset.manifest.statistics.get("task") == "language":
            yield from embedding_parts(dataset, inputs.get("tokens"))
    elif kind == "evaluation":
        yield from evaluation_parts(dataset)


def slug(text: str) -> str:
    """A title as part of a file's name or of a page's address."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


# Corpora and examples


def corpus_parts(dataset: Dataset) -> Iterator[Part]:
    with _asked(documents=Corpus(dataset).parts, rejected=[Corpus(dataset).rejected]) as ask:

        def sizes(what: str) -> list[tuple[Any, ...]]:
            return ask(
                f"SELECT {what}, count(*), sum(n_bytes)::BIGINT FROM documents GROUP BY ALL ORDER BY 3 DESC, 1"  # noqa: S608
            )

        yield _sizes("Text by source", "source", sizes("source"))
        languages = sizes("coalesce(language, 'not told')")
        if [name for name, _, _ in languages] != ["not told"]:
            yield _sizes("Text by language", "language", languages)
        yield _sizes("Text by split", "split", sizes("split"))
        yield _lengths("Length of documents", "bytes", ask, "n_bytes", "documents")
        yield from _rejections(ask)


def examples_parts(dataset: Dataset) -> Iterator[Part]:
    with _asked(**{name: [dataset.file(f"{name}.parquet")] for name in ("examples", "rejected")}) as ask:
        labels = ask("SELECT label, count(*) FROM examples GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 20")
        if labels and labels[0][0] is not None:
            bars = [(label, n, f"{n:,}") for label, n in labels]
            yield Part("Examples by label", svg=charts.bars(bars, "examples by label"), columns=("label", "examples"),
                       rows=labels)  # fmt: skip
        yield _lengths("Length of examples", "characters", ask, "length(text)", "examples")
        yield from _rejections(ask)


Ask = Callable[[str], list[tuple[Any, ...]]]


@contextmanager
def _asked(**tables: Sequence[Path]) -> Iterator[Ask]:
    """Answers SQL about tables, each of some Parquet files."""
    with duckdb.connect() as database:
        for name, files in tables.items():
            database.register(name, ds.dataset(files, format="parquet"))
        yield lambda query: database.execute(query).fetchall()


def _sizes(title: str, what: str, rows: list[tuple[Any, ...]]) -> Part:
    bars = [(str(name), n_bytes, f"{short(n_bytes)}B") for name, _, n_bytes in rows[:15]]
    note = f"The {len(bars)} largest of {len(rows):,}." if len(rows) > len(bars) else ""
    return Part(title, note, charts.bars(bars, title), (what, "documents", "bytes"), rows[:100])


def _lengths(title: str, unit: str, ask: Ask, length: str, table: str) -> Part:
    """A histogram over half octaves."""
    half = f"floor(2 * log2(greatest({length}, 1)))::INT"
    counts: dict[int, int] = dict(ask(f"SELECT {half}, count(*) FROM {table} GROUP BY ALL"))  # noqa: S608
    if not counts:
        return Part(title)
    first, last = min(counts), max(counts)
    edges = [2 ** (half / 2) for half in range(first, last + 2)]
    heights = [counts.get(half, 0) for half in range(first, last + 1)]
    svg = charts.histogram(edges, heights, Axis(unit, log=True), Axis("number"))
    rows = [(f"{edges[i]:,.0f} to {edges[i + 1]:,.0f}", heights[i]) for i in range(len(heights)) if heights[i]]
    return Part(title, svg=svg, columns=(unit, "number"), rows=rows)


def _rejections(ask: Ask) -> Iterator[Part]:
    reasons = ask("SELECT reason, count(*) FROM rejected GROUP BY ALL ORDER BY 2 DESC, 1")
    if not reasons:
        return
    bars = [(reason, n, f"{n:,}") for reason, n in reasons[:15]]
    yield Part("Left out, by reason", svg=charts.bars(bars, "left out, by reason"), columns=("reason", "number"),
               rows=reasons)  # fmt: skip
    shown = ask(
        f"SELECT reason, source, location, left(text, {SHOWN}) FROM rejected "  # noqa: S608
        f"QUALIFY row_number() OVER (PARTITION BY reason ORDER BY source, location) <= {EXAMPLES} "
        "ORDER BY count(*) OVER (PARTITION BY reason) DESC, reason LIMIT 60"
    )
    rows = [(reason, source, location, text or "") for reason, source, location, text in shown]
    yield Part("Some of what was left out", columns=("reason", "source", "where", "text"), rows=rows)


# Tokens


def tokens_parts(dataset: Dataset, corpus: Dataset | None = None) -> Iterator[Part]:
    tokens = Tokens(dataset)
    counts = token_counts(tokens)
    names = [repr(token.decode("utf-8", "replace")) for token in tokens.tokenizer.token_bytes]
    order = np.argsort(-counts, kind="stable")
    used = int((counts > 0).sum())
    if not used:
        return
    ranks = sorted({round(10 ** (e / 40)) for e in range(int(40 * math.log10(used)) + 1)} | {used})
    n = [int(counts[order[rank - 1]]) for rank in ranks]
    titles = [f"{names[order[r - 1]]}, rank {r:,}: {c:,} times" for r, c in zip(ranks, n, strict=True)]
    series = [
        Series("tokens", ranks, n, titles=titles),
        Series("one over the rank", [1, used], [n[0], n[0] / used], "dashed"),
    ]
    frequent = [(rank + 1, names[i], int(counts[i])) for rank, i in enumerate(order[:50]) if counts[i]]
    yield Part(
        "Frequency against rank",
        "Zipf's law is a straight line; the most frequent tokens are in the table.",
        charts.lines(series, Axis("rank", log=True), Axis("times", log=True, low=max(min(n) * 0.7, 0.7))),
        ("rank", "token", "times"),
        frequent,
    )
    covered = np.cumsum(counts[order]) / counts.sum()
    yield Part(
        "Coverage of the vocabulary",
        f"{used:,} of {len(counts):,} tokens occur; share of the text that the most frequent ones make up.",
        charts.lines(
            [Series("covered", ranks, [float(covered[r - 1]) for r in ranks])],
            Axis("most frequent tokens", log=True),
            Axis("share of the text", low=0, high=1.08),
        ),
        ("most frequent tokens", "share of the text"),
        [(r, f"{covered[r - 1]:.1%}") for r in (1, 10, 100, 1000, 10_000, 100_000) if r <= used],
    )
    if corpus and corpus.ref == dataset.manifest.inputs.get("corpus"):
        rows = _tokens_by_source(tokens, corpus)
        bars = [(source, n / b, f"{n / b:.3f}") for source, n, b in rows[:15]]
        yield Part(
            "Tokens per byte, by source",
            "The more tokens a source takes for its text, the less the vocabulary suits it.",
            charts.bars(bars, "tokens per byte by source"),
            ("source", "tokens", "bytes", "tokens per byte", "bytes per token"),
            [(source, n, b, round(n / b, 4), round(b / n, 3)) for source, n, b in rows],
        )


def token_counts(tokens: Tokens) -> NDArray[np.int64]:
    """How often each id occurs, (V,)."""
    counts = np.zeros(tokens.tokenizer.vocabulary, np.int64)
    for shard in range(len(tokens.shards)):
        flat = tokens.flat(shard)
        for at in range(0, len(flat), 1 << 24):  # bincount widens what it counts
            counts += np.bincount(flat[at : at + (1 << 24)], minlength=len(counts))
    return counts


def _tokens_by_source(tokens: Tokens, corpus: Dataset) -> list[tuple[str, int, int]]:
    with duckdb.connect() as database:
        database.register("documents", ds.dataset(Corpus(corpus).parts, format="parquet"))
        lengths = [batch.select(["doc_id", "n_tokens"]) for batch in tokens.shards]
        database.register("lengths", pa.Table.from_batches(lengths))
        return database.execute(
            "SELECT source, sum(n_tokens)::BIGINT, sum(n_bytes)::BIGINT FROM documents JOIN lengths USING (doc_id) "
            "GROUP BY ALL HAVING sum(n_bytes) > 0 ORDER BY sum(n_tokens) / sum(n_bytes) DESC"
        ).fetchall()


# Models

CURVES = (
    ("Loss", "loss", ("train/loss", "val/loss")),
    ("Validation accuracy", "accuracy", ("val/accuracy",)),
    ("Learning rate", "learning rate", ("train/learning_rate",)),
    ("Gradient norm", "norm", ("train/gradient_norm",)),
    ("Throughput", "tokens/s", ("train/tokens_per_second",)),
)


def training_parts(dataset: Dataset) -> Iterator[Part]:
    """The curves of a training and what the model wrote meanwhile, as MLflow has recorded them."""
    run = dataset.manifest.built.get("mlflow_run_id")
    where = runs.tracking_uri(dataset.folder.parents[1])
    curves: dict[str, list[tuple[int, float]]] = {}
    written: dict[str, str] = {}
    with suppress(InputError):
        curves = runs.curves(where, run) if run else {}
        written = runs.texts(where, run, "samples") if run else {}
    if not curves:
        yield Part("Curves", "MLflow here has no record of this training, which was done elsewhere or is deleted.")
    for title, unit, metrics in CURVES:
        known = [(metric, curves[metric]) for metric in metrics if curves.get(metric)]
        if known:
            series = [
                Series(
                    {"train": "training", "val": "validation"}[metric.partition("/")[0]],
                    [step for step, _ in points],
                    [value for _, value in points],
                    "both" if metric.startswith("val/") else "line",
                )
                for metric, points in known
            ]
            last = [(metric, len(points), *points[-1], min(v for _, v in points)) for metric, points in known]
            low = 0 if title in ("Throughput", "Learning rate", "Gradient norm") else None
            svg = charts.lines(series, Axis("step"), Axis(unit, low=low))
            yield Part(title, svg=svg, columns=("metric", "points", "last step", "last", "lowest"),
                       rows=[(*row[:3], f"{row[3]:.4g}", f"{row[4]:.4g}") for row in last])  # fmt: skip
    if written:
        texts = [(f"after step {int(''.join(c for c in name if c.isdigit()) or 0):,}", text)
                 for name, text in sorted(written.items())]  # fmt: skip
        yield Part("What it wrote as training went on", texts=texts)


POINTS, NAMED = 500, 250  # tokens in the plane, and those of them whose names are written


def embedding_parts(dataset: Dataset, tokens: Dataset | None) -> Iterator[Part]:
    """Token embeddings in the plane, and which lie nearest to each other."""
    from pipelines.model import open_gpt

    model = open_gpt(dataset.path)
    vectors = model.gpt.tokens.weight.detach().float().cpu().numpy()  # (V, C)
    texts = [token.decode("utf-8", "replace") for token in model.tokenizer.token_bytes]
    counts = token_counts(Tokens(tokens)) if tokens else np.arange(len(texts))[::-1]
    words = [i for i in np.argsort(-counts, kind="stable") if texts[i].strip().isalpha() and counts[i]][:POINTS]
    if len(words) < 3:
        return
    seen = np.flatnonzero(counts)
    centred = vectors - vectors[seen].mean(axis=0)
    chosen = centred[words]
    _, scales, axes = np.linalg.svd(chosen - chosen.mean(axis=0), full_matrices=False)
    plane = (chosen - chosen.mean(axis=0)) @ axes[:2].T  # (N, 2)
    plane *= np.where(plane[np.abs(plane).argmax(axis=0), [0, 1]] < 0, -1, 1)  # the sign is arbitrary: fix it
    share = (scales[:2] ** 2).sum() / max((scales**2).sum(), 1e-12)
    unit = centred[seen] / np.maximum(np.linalg.norm(centred[seen], axis=1, keepdims=True), 1e-12)
    place = {int(token): at for at, token in enumerate(seen)}
    likeness = unit[[place[int(i)] for i in words]] @ unit.T  # (N, used)
    near = np.argsort(-likeness, axis=1, kind="stable")[:, 1:7]  # the nearest is the token itself
    neighbours = [[(texts[seen[j]], likeness[row, j]) for j in near[row]] for row in range(len(words))]
    points = [
        (float(x), float(y), texts[i].strip(), f"{texts[i]!r}: near " + ", ".join(repr(t) for t, _ in neighbours[row]))
        for row, (i, (x, y)) in enumerate(zip(words, plane, strict=True))
    ]
    yield Part(
        "Token embeddings in two dimensions",
        f"The {len(words)} most frequent tokens that are words or parts of words, along the two principal components, "
        f"which hold {share:.0%} of their variance. Each point tells its nearest neighbours.",
        charts.cloud(points, NAMED, "token embeddings along two principal components"),
        ("token", "nearest neighbours, with cosine similarity"),
        [
            (repr(texts[i]), ", ".join(f"{text!r} {value:.2f}" for text, value in neighbours[row]))
            for row, i in enumerate(words)
            if len(texts[i].strip()) > 2
        ][:60],
        wide=True,
    )


# Evaluations


def evaluation_parts(dataset: Dataset) -> Iterator[Part]:
    files = [file for file in dataset.manifest.files if file.endswith(".parquet")]
    with _asked(**{file.removesuffix(".parquet"): [dataset.file(file)] for file in files}) as ask:
        yield from _beside_baselines(ask)
        if "memorisation.parquet" in dataset.manifest.files:
            yield from _recitals(ask)
        if "confusion.parquet" in dataset.manifest.files:
            yield _confusion(ask("SELECT truth, predicted, count FROM confusion"))
        if "curves.parquet" in dataset.manifest.files:
            several = ask("SELECT count(DISTINCT label) > 1 FROM curves")[0][0]
            labels = f"SELECT curve, coalesce(label, system), x, y FROM curves WHERE system = '{MODEL}'"  # noqa: S608
            yield from _curves(ask(labels if several else "SELECT curve, system, x, y FROM curves"))
        columns = [row[0] for row in ask("DESCRIBE predictions")]
        if "mistakes.parquet" in dataset.manifest.files:
            names = tuple(row[0] for row in ask("DESCRIBE mistakes"))
            rows = [tuple(map(_cell, row)) for row in ask("SELECT * FROM mistakes LIMIT 20")]
            yield Part("Mistakes", columns=names, rows=rows)
        if {"instruction", "model_answer"} <= set(columns):
            rows = ask(
                f"SELECT left(instruction, {SHOWN}), left(response, {SHOWN}), left(model_answer, {SHOWN}) "  # noqa: S608
                "FROM predictions LIMIT 12"
            )
            yield Part("Answers", columns=("instruction", "response", "the model's answer"), rows=rows)
    if "generated.txt" in dataset.manifest.files:
        text = dataset.file("generated.txt").read_text(encoding="utf-8", errors="replace")
        yield Part("What it writes", texts=[("at temperature 0.8", text)])


HEADLINE_METRICS = {"bits_per_byte": "Bits per byte", "accuracy": "Accuracy", "f1": "F1", "chrf": "chrF"}


def _beside_baselines(ask: Ask) -> Iterator[Part]:
    between = {row[0] for row in ask("DESCRIBE metrics")} >= {"low", "high"}
    rows = ask(f"SELECT system, metric, value, {'low, high' if between else 'NULL, NULL'} FROM metrics")  # noqa: S608
    systems, metrics = list(dict.fromkeys(row[0] for row in rows)), list(dict.fromkeys(row[1] for row in rows))
    values = {(system, metric): value for system, metric, value, _, _ in rows}
    ends = {(system, metric): (low, high) for system, metric, _, low, high in rows if low is not None}
    chosen = next((metric for metric in HEADLINE_METRICS if metric in metrics), metrics[0])
    bars = [
        (name_of(system), values[system, chosen], f"{values[system, chosen]:.3f}")
        for system in systems
        if math.isfinite(values.get((system, chosen), math.nan))
    ]

    def cell(system: str, metric: str) -> str:
        if (system, metric) not in values:
            return ""
        low, high = ends.get((system, metric), (None, None))
        return f"{values[system, metric]:.4g}" + (f" [{low:.4g}, {high:.4g}]" if low is not None else "")

    table = [(metric, *(cell(system, metric) for system in systems)) for metric in metrics]
    title = f"{HEADLINE_METRICS.get(chosen, chosen)}, beside baselines"
    note = "Lower is better." if chosen in LOWER_IS_BETTER else "Higher is better."
    shown = {name_of(system): pair for (system, metric), pair in ends.items() if metric == chosen}
    note += " Lines are 95% intervals." if shown else ""
    yield Part(title, note, charts.bars(bars, title, shown), ("metric", *map(name_of, systems)), table)
    groups = [metric.split("/", 2) for metric in metrics if metric.startswith(f"{chosen}/")]
    for column in dict.fromkeys(group[1] for group in groups):
        names = [group[2] for group in groups if group[1] == column]
        found = [(name, values[MODEL, f"{chosen}/{column}/{name}"]) for name in names]
        found.sort(key=lambda each: -each[1])
        by = f"{HEADLINE_METRICS[chosen]}, by {column}"
        pairs = {name: ends[key] for name in names if (key := (MODEL, f"{chosen}/{column}/{name}")) in ends}
        bars = [(name, value, f"{value:.3f}") for name, value in found[:15]]
        yield Part(by, svg=charts.bars(bars, by, pairs), columns=(column, chosen), rows=found)


def _recitals(ask: Ask) -> Iterator[Part]:
    """What a model knows by heart: after words of a text, how much of the rest it writes down word for word."""
    splits = ask("SELECT split, avg(run), count(*), max(run) FROM memorisation GROUP BY ALL ORDER BY 2 DESC")
    bars = [(f"{split} text", mean, f"{mean:.2f} tokens") for split, mean, _, _ in splits]
    note = "Tokens that it goes on with word for word, on average; what training text has more is memory."
    yield Part(
        "What it knows by heart",
        note,
        charts.bars(bars, "tokens recited, by split"),
        ("split", "mean run", "places", "longest run"),
        [(split, round(mean, 3), n, longest) for split, mean, n, longest in splits],
    )
    longest = ask(
        f"SELECT run, split, right(prefix, {SHOWN}), left(text, {SHOWN}), left(written, {SHOWN}) FROM memorisation "  # noqa: S608
        "WHERE run > 0 ORDER BY run DESC, doc_id LIMIT 6"
    )
    if longest:
        columns = ("tokens", "split", "after", "the text goes on", "the model went on")
        yield Part("Its longest recitals", columns=columns, rows=longest)


def _confusion(rows: list[tuple[str, str, int]]) -> Part:
    labels = list(dict.fromkeys(row[0] for row in rows))[:20]
    counts = {(truth, predicted): n for truth, predicted, n in rows}
    svg = charts.matrix(labels, [[counts.get((a, b), 0) for b in labels] for a in labels], "truth", "predicted")
    return Part("Confusion matrix", svg=svg, columns=("truth", "predicted", "number"), rows=rows)


CURVE_AXES = {
    "roc": ("ROC", "false positive rate", "true positive rate"),
    "precision_recall": ("Precision and recall", "recall", "precision"),
    "calibration": ("Calibration", "probability that the model gives", "share that is so"),
}


def _curves(rows: list[tuple[str, str, float, float]]) -> Iterator[Part]:
    for curve in dict.fromkeys(row[0] for row in rows):
        title, across, up = CURVE_AXES.get(curve, (curve, "x", "y"))
        systems = dict.fromkeys(row[1] for row in rows if row[0] == curve)
        series = []
        for system in systems:
            points = [(x, y) for c, s, x, y in rows if (c, s) == (curve, system)]
            drawn = "both" if curve == "calibration" else "line"
            series.append(Series(name_of(system), [p[0] for p in points], [p[1] for p in points], drawn))  # type: ignore[arg-type]
        svg = charts.lines(
            series, Axis(across, low=0, high=1), Axis(up, low=0, high=1.08), diagonal=curve in ("roc", "calibration")
        )
        table = [(name_of(s), f"{x:.4f}", f"{y:.4f}") for c, s, x, y in rows if c == curve]
        every = -(-len(table) // 200) or 1
        yield Part(title, svg=svg, columns=("system", across, up), rows=table[::every])


def name_of(system: str) -> str:
    return "this model" if system == MODEL else system.replace("_", " ")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return value[:SHOWN] if isinstance(value, str) else value
