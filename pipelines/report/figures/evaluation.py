"""Figures about evaluations: baselines, confusion, curves, memorisation."""

import math
from collections.abc import Iterator, Mapping

from pipelines.evaluation.results import MODEL
from pipelines.evaluation.tasks import METRICS, title_of
from pipelines.report import charts
from pipelines.report.charts import Axis, Drawn, Series
from pipelines.report.figures.part import MAX_CHARACTERS, Ask, Part, cells, name_of, query_tables
from pipelines.store.dataset import Dataset


def evaluation_parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    """Yield the parts about an evaluation: baselines, memorisation, confusion, curves, mistakes and answers."""
    files = [file for file in dataset.manifest.files if file.endswith(".parquet")]
    with query_tables(**{file.removesuffix(".parquet"): [dataset.file(file)] for file in files}) as ask:
        yield from _beside_baselines(ask)
        if "memorisation.parquet" in dataset.manifest.files:
            yield from _recitals(ask)
        if "confusion.parquet" in dataset.manifest.files:
            yield _confusion(ask)
        if "curves.parquet" in dataset.manifest.files:
            several = ask("SELECT count(DISTINCT label) > 1 FROM curves")[0][0]
            frequent = f"SELECT truth FROM predictions GROUP BY ALL ORDER BY count(*) DESC, 1 LIMIT {MAX_CURVES}"  # noqa: S608 - a constant
            labels = (
                f"SELECT curve, coalesce(label, system), x, y FROM curves WHERE system = '{MODEL}' "  # noqa: S608 - constants
                f"AND (label IS NULL OR label IN ({frequent}))"
            )
            yield from _curves(ask(labels if several else "SELECT curve, system, x, y FROM curves"))
        columns = [row[0] for row in ask("DESCRIBE predictions")]
        if "mistakes.parquet" in dataset.manifest.files:
            names = tuple(row[0] for row in ask("DESCRIBE mistakes"))
            yield Part("Mistakes", columns=names, rows=cells(ask("SELECT * FROM mistakes LIMIT 20")))
        if {"instruction", "model_answer"} <= set(columns):
            rows = ask("SELECT instruction, response, model_answer FROM predictions LIMIT 12")
            yield Part("Answers", columns=("instruction", "response", "the model's answer"), rows=cells(rows))
    if "generated.txt" in dataset.manifest.files:
        text = dataset.file("generated.txt").read_text(encoding="utf-8", errors="replace")
        yield Part("What it writes", texts=[("at temperature 0.8", text)])


MAX_ROWS, MAX_LABELS, MAX_CURVES = 200, 20, 10  # of a table, a matrix and a chart


HEADLINE_METRICS = {name: title_of(name) for name in ("bits_per_byte", "accuracy", "f1", "chrf")}


def _beside_baselines(ask: Ask) -> Iterator[Part]:
    between = {row[0] for row in ask("DESCRIBE metrics")} >= {"low", "high"}
    rows = ask(f"SELECT system, metric, value, {'low, high' if between else 'NULL, NULL'} FROM metrics")  # noqa: S608 - our own columns
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

    table = [(metric[:MAX_CHARACTERS], *(cell(system, metric) for system in systems)) for metric in metrics[:MAX_ROWS]]
    title = f"{HEADLINE_METRICS.get(chosen, chosen)}, beside baselines"
    note = "Lower is better." if chosen in METRICS and METRICS[chosen].lower_is_better else "Higher is better."
    shown = {name_of(system): pair for (system, metric), pair in ends.items() if metric == chosen}
    note += " Lines are 95% intervals." if shown else ""
    note += f" The first {MAX_ROWS} of {len(metrics):,} metrics." if len(metrics) > MAX_ROWS else ""
    yield Part(title, note, charts.bars(bars, title, shown), ("metric", *map(name_of, systems)), table)
    groups = [metric.split("/", 2) for metric in metrics if metric.startswith(f"{chosen}/")]
    for column in dict.fromkeys(group[1] for group in groups):
        keys = {group[2]: (MODEL, "/".join(group)) for group in groups if group[1] == column}
        found = sorted(((name, values[key]) for name, key in keys.items()), key=lambda each: -each[1])
        by = f"{HEADLINE_METRICS[chosen]}, by {column}"
        pairs = {name: ends[key] for name, key in keys.items() if key in ends}
        bars = [(name, value, f"{value:.3f}") for name, value in found[:15]]
        yield Part(by, svg=charts.bars(bars, by, pairs), columns=(column, chosen), rows=found)


def _recitals(ask: Ask) -> Iterator[Part]:
    """Yield the parts about memorisation: how much of a text a model writes after the beginning of the text."""
    splits = ask("SELECT split, avg(run), count(*), max(run) FROM memorisation GROUP BY ALL ORDER BY 2 DESC")
    bars = [(f"{split} text", mean, f"{mean:.2f} tokens") for split, mean, _, _ in splits]
    note = "Tokens that it repeats word for word, on average; the surplus of training text is memory."
    yield Part(
        "Memorised text",
        note,
        charts.bars(bars, "tokens recited, by split"),
        ("split", "mean run", "places", "longest run"),
        [(split, round(mean, 3), n, longest) for split, mean, n, longest in splits],
    )
    longest = ask(
        f"SELECT run, split, right(prefix, {MAX_CHARACTERS}), text, written FROM memorisation "  # noqa: S608 - a constant
        "WHERE run > 0 ORDER BY run DESC, doc_id LIMIT 6"
    )
    if longest:
        columns = ("tokens", "split", "after", "the text goes on", "the model went on")
        yield Part("Its longest recitals", columns=columns, rows=cells(longest))


def _confusion(ask: Ask) -> Part:
    """Return the matrix of the labels that most texts have, and the most frequent pairs of all labels."""
    frequent = ask("SELECT truth, sum(count) FROM confusion GROUP BY ALL ORDER BY 2 DESC, 1")
    labels = sorted(label for label, _ in frequent[:MAX_LABELS])
    n_pairs = ask("SELECT count(*) FROM confusion")[0][0]
    order = "" if n_pairs <= MAX_ROWS else f" ORDER BY count DESC, truth, predicted LIMIT {MAX_ROWS}"
    rows = ask(f"SELECT truth, predicted, count FROM confusion{order}")  # noqa: S608 - a constant
    shown = ask("SELECT truth, predicted, count FROM confusion WHERE count > 0")
    counts = {(truth, predicted): n for truth, predicted, n in shown}
    svg = charts.matrix(labels, [[counts.get((a, b), 0) for b in labels] for a in labels], "truth", "predicted")
    note = f"The {len(labels)} most frequent of {len(frequent):,} labels." if len(frequent) > len(labels) else ""
    return Part("Confusion matrix", note, svg, ("truth", "predicted", "number"), cells(rows))


CURVE_AXES = {
    "roc": ("ROC", "false positive rate", "true positive rate"),
    "precision_recall": ("Precision and recall", "recall", "precision"),
    "calibration": ("Calibration", "probability that the model gives", "share that is so"),
}


def _curves(rows: list[tuple[str, str, float, float]]) -> Iterator[Part]:
    for curve in dict.fromkeys(row[0] for row in rows):
        title, across, up = CURVE_AXES.get(curve, (curve, "x", "y"))
        points = [(system, x, y) for each, system, x, y in rows if each == curve]
        drawn: Drawn = "both" if curve == "calibration" else "line"
        series = []
        for system in dict.fromkeys(system for system, _, _ in points):
            xs, ys = zip(*((x, y) for each, x, y in points if each == system), strict=True)
            series.append(Series(name_of(system), xs, ys, drawn))
        svg = charts.lines(
            series, Axis(across, low=0, high=1), Axis(up, low=0, high=1.08), diagonal=curve in ("roc", "calibration")
        )
        table = [(name_of(system), f"{x:.4f}", f"{y:.4f}") for system, x, y in points]
        every = -(-len(table) // 200) or 1
        yield Part(title, svg=svg, columns=("system", across, up), rows=table[::every])
