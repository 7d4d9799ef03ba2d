"""What a step is: a function from published datasets and a config to files in a folder, and the identity of its result.

`StepType` is a step as its author defines it. `Step` is one use of it: a name, a config and inputs, and so a
fingerprint. `StepContext` is what a running step may ask of its runner.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpt.config import Config
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import NAME, SourceFile


class Listener:
    """Receives what a step reports while it works. This one ignores everything."""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Report that `done` of `total` `unit`s (documents, bytes, steps) are finished.

        Args:
            note: a few words on how the step is doing.
        """

    def advance(self) -> None:
        """Advance the progress by one unit."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Report values of curves, named `stage/quantity`, at an optimizer step."""

    def text(self, path: str, text: str) -> None:
        """Report a text worth keeping with the run, such as what the model wrote at this point."""

    def flush(self) -> None:
        """Deliver everything that was reported: the step is about to save its state."""

    def warn(self, sentence: str) -> None:
        """Report something that does not stop the step but that a person should know."""


class Meter:
    """Adds up what is done of some work and reports it to a listener, ten times a second at most."""

    def __init__(self, listener: Listener, total: float, unit: str, note: str) -> None:
        """Begin with nothing done."""
        self._listener, self._total, self._unit, self._note = listener, total, unit, note
        self._done, self._reported = 0.0, time.monotonic()

    def __call__(self, done: float) -> None:
        """Add what was done since the last call."""
        self._done += done
        if (now := time.monotonic()) - self._reported > REPORT_EVERY:
            self._reported = now
            self._listener.progress(self._done, self._total, self._unit, self._note)


REPORT_EVERY = 0.1  # seconds


def map_in_turn(function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    """Run a step's partitions one after another in this process."""
    return [function(item) for item in items]


@dataclass(frozen=True)
class StepContext:
    """What a running step may ask for.

    scratch: a folder for checkpoints. It survives a kill and is the same when the step runs again.
    listener: receives progress, curves, texts and warnings.
    map: runs an importable function over picklable items, in order, on the available workers. The listener advances
        with each finished item.
    should_stop: returns whether somebody asked the run to end; long steps then save and raise `Stopped`.
    previous: the newest other version of the result, for steps that reuse what has not changed.
    sources: the source files in the step's fingerprint. A step that lists them again takes no others.
    """

    scratch: Path
    listener: Listener = field(default_factory=Listener)
    map: Callable[[Callable[..., Any], Iterable[Any]], list[Any]] = map_in_turn
    should_stop: Callable[[], bool] = lambda: False
    previous: Dataset | None = None
    sources: tuple[SourceFile, ...] | None = None

    def files_that_came_later(self, list_now: Callable[[], Iterable[SourceFile]]) -> set[str]:
        """Return the names of source files that appeared after the fingerprint was taken.

        Raises:
            InputError: a fingerprinted file has changed.
        """
        if self.sources is None:
            return set()
        now, before = ({(file.name, file.sha256) for file in files} for files in (list_now(), self.sources))
        if changed := before - now:
            raise InputError(f"{min(changed)[0]} changed while it was read; run again when nothing writes to it.")
        return {name for name, _ in now - before}

    def usable_previous(self, table: str) -> Dataset | None:
        """Return the previous version if it has a file named `table` and none of its files is damaged."""
        if not self.previous or table not in self.previous.manifest.files:
            return None
        if self.previous.is_intact():
            return self.previous
        self.listener.warn(f"{self.previous} is damaged, so nothing is taken from it; see `tokenmill datasets verify`")
        return None

    @contextmanager
    def refusing(self, previous: Dataset) -> Iterator[None]:
        """Warn if the tables of a previous version, which somebody else may have written, name files that it lacks."""
        try:
            yield
        except (InputError, ValueError, LookupError, TypeError):
            self.listener.warn(f"{previous} names files that are not its own, so nothing is taken from it.")


class Stopped(Exception):
    """A step ended early because it was asked to. Its finished work is saved, and the next run continues from there."""


@dataclass(frozen=True)
class StepType:
    """A step as its author defines it.

    run: (inputs by role, config, empty output folder, work) -> statistics, a flat mapping of numbers and words.
    version: raised by the author when the meaning of the step changes, so that old results are not reused.
    sources: for steps that read files from outside the store, config -> these files.
    packages: the packages whose code makes the output; the manifest records a digest of their code.
    headline: statistics -> the numbers that a person wants first, in one line.
    details: dataset -> the same in several lines; by default the headline.
    """

    name: str
    kind: str
    version: int
    config: type[Config]
    run: Callable[..., dict[str, Any]]
    sources: Callable[[Any], tuple[SourceFile, ...]] | None = None
    packages: tuple[str, ...] = ()
    headline: Callable[[Mapping[str, Any]], str] | None = None
    details: Callable[[Dataset], str] | None = None

    def using(self, name: str, config: Config, inputs: Mapping[str, Dataset] | None = None) -> Step:
        """Return this step with a name for its result, a config, and inputs by role.

        Raises:
            InputError: the name cannot name a dataset.
        """
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name a dataset; use lower-case letters, digits, '.', '_' and '-'.")
        return Step(self, name, config, dict(inputs or {}))


@dataclass(frozen=True)
class Step:
    """One use of a step. Its fingerprint covers everything that can change a byte of the output, and nothing else."""

    type: StepType
    name: str
    config: Config
    inputs: Mapping[str, Dataset]

    @cached_property
    def sources(self) -> tuple[SourceFile, ...]:
        """The files that the step reads from outside the store, listed on first use. An error is not remembered."""
        return self.type.sources(self.config) if self.type.sources else ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON of `identity`.

        Raises:
            InputError: the config holds a number that is not finite, and so has no JSON.
        """
        try:
            text = canonical_json(self.identity)
        except ValueError:
            raise InputError(f"{self.title}: a number in its config is not finite.") from None
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """The step's name and version, the name of its result, its config, its inputs and its source files."""
        return {
            "step": self.type.name,
            "version": self.type.version,
            "name": self.name,
            "config": fingerprinted(self.config),
            "inputs": {role: dataset.ref.model_dump() for role, dataset in sorted(self.inputs.items())},
            "sources": [source.model_dump() for source in self.sources],
        }

    @property
    def key(self) -> str:
        """The place of the result in the store, as a relative path."""
        return f"{self.type.kind}/{self.name}-{self.fingerprint[:12]}"

    @property
    def title(self) -> str:
        """Return how people call the step, such as `pretrain quickstart`."""
        return f"{self.type.name} {self.name}"

    def __str__(self) -> str:
        return f"{self.type.kind}/{self.name}@{self.fingerprint[:12]}"


def canonical_json(value: Any) -> str:
    """Return JSON that has one spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class ConfigWithNames(Config):
    """A config with names that refer to values, such as the name of a model's size."""

    def redefined(self) -> dict[str, Any]:
        """Return the values behind the names, except those that are the same since version 0.1.0.

        They enter the fingerprint beside the names.
        """
        raise NotImplementedError


def fingerprinted(config: BaseModel) -> dict[str, Any]:
    """Return the part of a config that can change the output.

    Two kinds of fields are left out:

    - `json_schema_extra={"fingerprint": False}`: a place or a worker count. The same data read from elsewhere, or by
      more workers, is the same version.
    - `json_schema_extra={"since": "0.2.0"}` with its default as value: a field that was added in that version. Results
      of earlier versions keep their fingerprints.
    """
    dumped = config.model_dump(mode="json")
    kept = {
        name: _fingerprinted_value(getattr(config, name), dumped[name])
        for name, info in type(config).model_fields.items()
        if _matters(info, getattr(config, name))
    }
    if isinstance(config, ConfigWithNames) and (redefined := config.redefined()):
        kept["redefined"] = redefined
    return kept


def _matters(info: FieldInfo, value: Any) -> bool:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    if extra.get("fingerprint") is False:
        return False
    return "since" not in extra or value != info.get_default(call_default_factory=True)


def _fingerprinted_value(value: Any, dumped: Any) -> Any:
    if isinstance(value, BaseModel):
        return fingerprinted(value)
    if isinstance(value, list | tuple):
        return [_fingerprinted_value(v, d) for v, d in zip(value, dumped, strict=True)]
    if isinstance(value, dict):
        return {key: _fingerprinted_value(v, d) for v, (key, d) in zip(value.values(), dumped.items(), strict=True)}
    if isinstance(value, set | frozenset):
        return sorted(dumped)  # their order is another in every process
    return dumped


@lru_cache
def code_digest(packages: tuple[str, ...], as_written: bool = False) -> str:
    """Return the SHA-256 of the packages' code as Python reads it, without comments, docstrings and layout.

    A package includes all modules below it, so that no list of modules can miss one that changes a byte.

    Args:
        packages: names of packages or modules.
        as_written: digest the files as they are, which is much faster.
    """
    sha = hashlib.sha256()
    for package in sorted(packages):
        spec = importlib.util.find_spec(package)  # not imported: that takes longer than all of this
        assert spec and spec.origin
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        for path in sorted(path for folder in folders for path in folder.rglob("*.py")) or [Path(spec.origin)]:
            sha.update(path.read_bytes() if as_written else f"{path.name}\n{_plain_code(path)}\n".encode())
    return sha.hexdigest()


@lru_cache  # steps share packages, and a module takes some 10 ms
def _plain_code(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_docstring(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_docstring(node: ast.AST) -> bool:
    """Return whether a statement is only a text: a docstring, or the description of the field above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
