"""Using models from the command line: classification of lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import typer

from flows.models import find_model
from pipelines.errors import InputError
from pipelines.model import TextClassifier, open_model

BATCH = 256


def classify_texts(reference: str, text: str | None, file: Path | None) -> None:
    """Write label, probability and text, separated by tabs, for a text or for every line of a file or stdin."""
    model = open_model(find_model(reference).path)
    if not isinstance(model, TextClassifier):
        raise InputError(f"{reference} is no classifier; see `tokenmill datasets ls model`.")
    started, n = time.perf_counter(), 0
    for batch in _batches(_lines(text, file)):
        for line, row in zip(batch, model.probabilities(batch), strict=True):
            best = int(row.argmax())
            sys.stdout.write(f"{model.labels[best]}\t{row[best]:.4f}\t{line}\n")
        n += len(batch)
    if n > 1:
        seconds = time.perf_counter() - started
        typer.echo(f"{n:,} texts in {seconds:.1f} s, {n / seconds:,.0f} a second", err=True)


def _lines(text: str | None, file: Path | None) -> Iterator[str]:
    if text is not None:
        yield text
        return
    try:
        with file.open(encoding="utf-8", errors="replace") if file else sys.stdin as lines:
            yield from (line.rstrip("\n") for line in lines)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def _batches(lines: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(lines, BATCH)):
        yield batch
