"""Using models from the command line: which one a name means, and classification of lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import typer

from flows.home import Home
from pipelines.errors import InputError
from pipelines.model import TextClassifier, open_model
from pipelines.store import Dataset

BATCH = 256


def find_model(reference: str) -> Path:
    """The folder of the model that a reference names.

    `NAME@ALIAS` and `NAME/VERSION` are looked up in MLflow's registry; `NAME`, `NAME@FINGERPRINT` in the store.

    Raises:
        InputError: there is no such model.
    """
    home = Home.from_environment()
    name, at, alias = reference.partition("@")
    if at and not _is_hex(alias):
        return _registered(home, name, alias=alias).path
    name, slash, version = reference.rpartition("/")
    if slash and version.isdigit():
        return _registered(home, name, version=version).path
    return home.store.open(reference, kind="model").path


def _registered(home: Home, name: str, alias: str = "", version: str = "") -> Dataset:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(home.mlflow_uri)
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except MlflowException:
        what = f"{name}@{alias}" if alias else f"{name}/{version}"
        raise InputError(f"MLflow's registry has no model {what}; see `tokenmill datasets ls model`.") from None
    return home.store.open(f"{name}@{found.tags['tokenmill.fingerprint']}", kind="model")


def _is_hex(text: str) -> bool:
    return len(text) >= 4 and all(c in "0123456789abcdef" for c in text)


def classify_texts(reference: str, text: str | None, file: Path | None) -> None:
    """Write label, probability and text, separated by tabs, for a text or for every line of a file or stdin."""
    model = open_model(find_model(reference))
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
