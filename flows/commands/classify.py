"""`tokenmill classify`: texts in, labels with probabilities out, and how fast it went."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import typer

from flows.tracking.registry import find_model
from pipelines.errors import InputError
from pipelines.models.language_model import open_model
from pipelines.models.text_classifier import TextClassifier

BATCH = 256


def classify_texts(reference: str, text: str | None, file: Path | None, every: bool, as_json: bool) -> None:
    """Write the label of a text, or of every line of a file or stdin, in the order in which they come.

    Args:
        every: write every label's probability, not the best one's alone.
        as_json: an object a line; else label, probability and text with tabs between them.
    """
    model = open_model(find_model(reference).path)
    if not isinstance(model, TextClassifier):
        raise InputError(f"{reference} is no classifier; see `tokenmill datasets ls model`.")
    lines = iter([text]) if text is not None else _lines(file)
    started, n = time.perf_counter(), 0
    for batch in iter(lambda: list(islice(lines, BATCH)), []):
        probabilities = model.probabilities(batch)  # (N, classes)
        for line, at, row in zip(batch, model.decision.classes(probabilities), probabilities, strict=True):
            each = dict(zip(model.labels, map(float, row), strict=True))
            write = _json_line if as_json else _tabbed_line
            sys.stdout.write(write(line, model.labels[at], each, every))
        sys.stdout.flush()
        n += len(batch)
    if n > 1:
        seconds = time.perf_counter() - started
        typer.echo(f"{n:,} texts in {seconds:.1f} s, {n / seconds:,.0f} a second", err=True)


def _json_line(text: str, label: str, probabilities: dict[str, float], every: bool) -> str:
    said = {"label": label, "probability": probabilities[label]}
    said |= {"probabilities": probabilities} if every else {}
    return json.dumps({**said, "text": text}, ensure_ascii=False) + "\n"


def _tabbed_line(text: str, label: str, probabilities: dict[str, float], every: bool) -> str:
    order = sorted(probabilities, key=lambda each: -probabilities[each])
    others = [f"{each}={probabilities[each]:.4f}" for each in order] if every else []
    said = " ".join(others) or f"{probabilities[label]:.4f}"
    return f"{label}\t{said}\t{' '.join(text.splitlines())}\n"


def _lines(file: Path | None) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") if file else sys.stdin as lines:
            yield from (line.rstrip("\r\n") for line in lines)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
