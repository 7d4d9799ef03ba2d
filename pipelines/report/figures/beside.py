"""Figures and tables of several models beside each other: curves, metrics, texts, labels and answers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.evaluation.compare import Difference, compare, shown
from pipelines.evaluation.language_model import BETWEEN
from pipelines.evaluation.tasks import METRICS, title_of
from pipelines.numbers import counted, p_value
from pipelines.report import charts
from pipelines.report.charts import Axis, Series
from pipelines.report.figures.evaluation import HEADLINE_METRICS
from pipelines.report.figures.part import Part, query_tables
from pipelines.report.figures.training import CURVES, DRAWN, read_record
from pipelines.store.dataset import Dataset

Named = Mapping[str, Dataset]
"""Models or evaluations by the names that the page gives them."""

MOST_CHARACTERS, MOST_ROWS = 600, 20  # of a text in a table, and of a table


def training_parts(models: Named, smoothing: float) -> Iterator[Part]:
    """Yield each curve of all trainings in one figure, and what the models wrote last.

    The figures are over the tokens trained on if the batches differ in size, else over steps.
    """
    records = {name: read_record(model) for name, model in models.items()}
    sizes = {name: _tokens_per_step(model) for name, model in models.items()}
    by_tokens = len(set(sizes.values())) > 1 and all(sizes.values())
    for title, axis, metrics in CURVES:
        for metric in metrics:
            which, drawn = DRAWN[metric.partition("/")[0]]
            weight = smoothing if metric == "train/loss" else 0.0
            series, rows = [], []
            for name, (curves, _) in records.items():
                if points := curves.get(metric):
                    steps, values = zip(*points, strict=True)
                    places = [step * sizes[name] for step in steps] if by_tokens else steps
                    series.append(Series(name, places, smooth(values, weight), drawn))
                    rows.append((name, len(points), steps[-1], f"{values[-1]:.4g}", f"{min(values):.4g}"))
            if series:
                heading = f"{title}, {which}" if len(metrics) > 1 else title
                note = f"Smoothed: each point keeps {weight:g} of the one before." if weight else ""
                svg = charts.lines(series, Axis("tokens trained on" if by_tokens else "step"), axis)
                yield Part(heading, note, svg, ("model", "points", "last step", "last", "lowest"), rows)
    last = {name: max(texts.items())[1] for name, (_, texts) in records.items() if texts}
    if len(last) > 1:
        yield Part("Written at the end of training", columns=tuple(last), rows=[_cells(*last.values())], beside=True)


def _tokens_per_step(model: Dataset) -> int:
    statistics = model.manifest.statistics
    return round(statistics.get("tokens_trained", 0) / max(statistics.get("steps", 0), 1))


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Return an exponential moving average, without its bias towards zero (Kingma and Ba 2015)."""
    found, average = [], 0.0
    for n, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        found.append(average / (1 - weight**n))
    return found


def metric_parts(evaluations: Named, significance: float) -> Iterator[Part]:
    """Yield the metrics of evaluations of the same items: the headline as bars, and all with their tests."""
    names = list(evaluations)
    first, *others = evaluations.values()
    pairs = [{each.metric: each for each in compare(first, other)} for other in others]
    rows = [[pair[metric] for pair in pairs] for metric in pairs[0] if all(metric in pair for pair in pairs)]
    by_name = {row[0].metric.split("/", 1)[1]: row for row in rows}
    chosen = next((metric for metric in HEADLINE_METRICS if metric in by_name), next(iter(by_name), None))
    if chosen is None:
        return
    values = dict(zip(names, [by_name[chosen][0].first, *(each.second for each in by_name[chosen])], strict=True))
    bars = [(name, each.value, f"{each.value:.4g}") for name, each in values.items()]
    ends = {name: (each.low, each.high) for name, each in values.items() if not math.isnan(each.low or math.nan)}
    better = "Lower" if chosen in METRICS and METRICS[chosen].lower_is_better else "Higher"
    columns = ["metric", names[0]]
    for name in names[1:]:
        columns += [name, "difference", "against the first"]
    table = [
        (row[0].metric, shown(row[0].first), *(cell for each in row for cell in _tested(each, significance)))
        for row in rows
    ]
    yield Part(
        title_of(chosen),
        f"{better} is better. Lines are 95% intervals.",
        charts.bars(bars, title_of(chosen), ends),
        ("model", chosen),
        [(name, shown(each)) for name, each in values.items()],
    )
    yield Part(
        "All metrics",
        f"With 95% intervals by bootstrap over the items. Tests are paired, at p < {significance:g}.",
        columns=tuple(columns),
        rows=table,
        beside=True,
    )


def _tested(each: Difference, significance: float) -> tuple[str, str, str]:
    if each.p is None:
        return shown(each.second), "", ""
    return shown(each.second), f"{each.difference.value:+.4g}", f"{each.verdict(significance)}, {p_value(each.p)}"


# What each model said


def written_parts(evaluations: Named) -> Iterator[Part]:
    """Yield what each language model wrote after the prompts that all were given, and after the same texts."""
    texts = {name: read_generated(evaluation) for name, evaluation in evaluations.items()}
    prompts = [prompt for prompt in next(iter(texts.values())) if all(prompt in each for each in texts.values())]
    if prompts:
        rows = [_cells(prompt, *(each[prompt] for each in texts.values())) for prompt in prompts]
        yield Part("After the same prompts", columns=("prompt", *texts), rows=rows, beside=True)
    if all("memorisation.parquet" in each.manifest.files for each in evaluations.values()):
        yield from _recitals(evaluations)


def read_generated(evaluation: Dataset) -> dict[str, str]:
    """Return what a model wrote after each prompt of its evaluation."""
    prompts = evaluation.manifest.config.get("prompts") or []
    if "generated.txt" not in evaluation.manifest.files:
        return {}
    text = evaluation.file("generated.txt").read_text(encoding="utf-8", errors="replace").rstrip("\n")
    found = {}
    for prompt, following in zip(prompts, [*prompts[1:], None], strict=True):
        one, _, text = text.partition(f"{BETWEEN}{following}") if following is not None else (text, "", "")
        text = f"{following}{text}"
        found[prompt] = one.removeprefix(prompt)
    return found


def _recitals(evaluations: Named) -> Iterator[Part]:
    tables = {f"t{i}": [each.file("memorisation.parquet")] for i, each in enumerate(evaluations.values())}
    written = ", ".join(f"{table}.written" for table in tables)
    joins = " ".join(f"JOIN {table} USING (split, doc_id, prefix, text)" for table in list(tables)[1:])
    longest = f"greatest({', '.join(f'{table}.run' for table in tables)})"
    with query_tables(**tables) as ask:
        found = ask(
            f"SELECT split, prefix, text, {written} FROM t0 {joins} "  # noqa: S608 - our own names
            f"ORDER BY {longest} DESC, split, doc_id LIMIT 6"
        )
    if found:
        note = "The texts of which one of them repeated most, word for word."
        rows = [_cells(*row) for row in found]
        yield Part("After the same texts", note, columns=("split", "after", "the text goes on", *evaluations),
                   rows=rows, beside=True)  # fmt: skip


def label_parts(evaluations: Named) -> Iterator[Part]:
    """Yield the texts that one classifier gets right and another wrong."""
    names = list(evaluations)
    for one in names:
        for other in (name for name in names if name != one):
            with query_tables(a=[_predictions(evaluations[one])], b=[_predictions(evaluations[other])]) as ask:
                condition = "a.model_label = a.truth AND b.model_label <> a.truth"
                n = ask(f"SELECT count(*) FROM a JOIN b USING (item) WHERE {condition}")[0][0]  # noqa: S608 - constants
                rows = ask(
                    f"SELECT a.text, a.truth, b.model_label FROM a JOIN b USING (item) WHERE {condition} "  # noqa: S608 - constants
                    f"ORDER BY item LIMIT {MOST_ROWS}"
                )
            note = counted(n, "text") + (f"; the first {MOST_ROWS}." if n > MOST_ROWS else ".")
            title = f"{one} is right and {other} is wrong"
            columns = ("text", "label", f"{other} says")
            yield Part(title, note, columns=columns, rows=[_cells(*row) for row in rows], beside=True)


def answer_parts(evaluations: Named) -> Iterator[Part]:
    """Yield the answers of each assistant to the same instructions."""
    tables = [pq.read_table(_predictions(each)).to_pylist() for each in evaluations.values()]
    others = [{row["item"]: row["model_answer"] for row in table} for table in tables]
    rows = [
        _cells(row["instruction"], row["response"], *(each[row["item"]] for each in others))
        for row in tables[0][:MOST_ROWS]
    ]
    note = f"The first {MOST_ROWS} of {len(tables[0]):,} held-out instructions." if len(tables[0]) > MOST_ROWS else ""
    yield Part("Answers", note, columns=("instruction", "response", *evaluations), rows=rows, beside=True)


def _predictions(evaluation: Dataset) -> Path:
    return evaluation.file("predictions.parquet")


def _cells(*texts: str | None) -> tuple[str, ...]:
    """Return texts as cells of a table: without space around them, and not too long."""
    stripped = [(text or "").strip() for text in texts]
    return tuple(text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…" for text in stripped)
