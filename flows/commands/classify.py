"""`tokenmill classify`: texts in, labels with probabilities out, and how fast it went."""

import json
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from flows.commands.options import Model
from flows.commands.text_input import input_texts
from flows.terminal import results
from pipelines.errors import InputError

TEXTS_PER_BATCH = 256


def classify(
    text: Annotated[str | None, Argument(help="The text; without one, lines from standard input.")] = None,
    model: Model = None,
    file: Annotated[Path | None, Option(help="Read texts from a file: a table, or a text a line.")] = None,
    column: Annotated[str | None, Option(help="The table's column of texts; by default the only one of text.")] = None,
    every: Annotated[bool, Option("--all", help="Write the probability of every label, not only the best.")] = False,
    as_json: Annotated[bool, Option("--json", help="Write JSON Lines.")] = False,
) -> None:
    """Classify a text, or each text of a file: label, probability and text, separated by tabs.

    Example: tokenmill classify "You have won £500! Call 09050001808" --model quickstart-spam
    """
    from flows.tracking.registry import find_model
    from pipelines.models.language_model import open_model
    from pipelines.models.text_classifier import TextClassifier

    classifier = open_model((found := find_model(model, task="classification")).path)
    if not isinstance(classifier, TextClassifier):
        raise InputError(f"{found} is no classifier; `tokenmill models` shows what there is.")
    lines = iter([text]) if text is not None else input_texts(file, column)
    write, out = _as_json if as_json else _as_table_row, results()
    started, n = time.perf_counter(), 0
    for batch in iter(lambda: list(islice(lines, TEXTS_PER_BATCH)), []):
        probabilities = classifier.probabilities(batch)  # (N, classes)
        for line, at, row in zip(batch, classifier.decision.classes(probabilities), probabilities, strict=True):
            by_label = dict(zip(classifier.labels, map(float, row), strict=True))
            out.write(write(line, classifier.labels[at], by_label, every) + "\n")
        out.flush()
        n += len(batch)
    if n > 1:
        seconds = time.perf_counter() - started
        typer.echo(f"{n:,} texts in {seconds:.1f} s, {n / seconds:,.0f} a second", err=True)


def _as_json(text: str, label: str, probabilities: dict[str, float], every: bool) -> str:
    others = {"probabilities": probabilities} if every else {}
    line = {"label": label, "probability": probabilities[label], **others, "text": text}
    return json.dumps(line, ensure_ascii=False)


def _as_table_row(text: str, label: str, probabilities: dict[str, float], every: bool) -> str:
    likeliest_first = sorted(probabilities.items(), key=lambda each: -each[1]) if every else []
    cell = " ".join(f"{name}={p:.4f}" for name, p in likeliest_first) or f"{probabilities[label]:.4f}"
    cells = (label.replace("\t", " "), cell.replace("\t", " "), text)
    return "\t".join(" ".join(each.splitlines()) for each in cells)
