"""What a step is: a function from published datasets and a config to files in a folder, and the identity of its result.

`StepType` is the step as its author wrote it (one per module of this package). `Step` is one use of it: with
a config and inputs, and so with a fingerprint. `Work` is what a running step may ask of whoever runs it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gpt.config import Config
from pipelines.errors import InputError
from pipelines.store.manifest import NAME, Ref, SourceFile

if TYPE_CHECKING:
    from pipelines.store.dataset import Dataset


class Listener:
    """What a step tells while it works. This one keeps quiet; the conductor's draws bars and logs metrics."""

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """`done` of `total` `unit`s (documents, bytes, steps) are through; `note` is a word on how it goes."""

    def advance(self) -> None:
        """One more than told is through."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a curve at an optimizer step, named `stage/quantity`."""

    def text(self, path: str, text: str) -> None:
        """A text worth keeping with the run, such as what the model wrote at this point."""

    def flush(self) -> None:
        """What was told so far must outlive this process: the step is about to save where it is."""

    def warn(self, sentence: str) -> None:
        """Something that does not stop the step but that a person should know."""


def map_in_turn(function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    """The plainest way to run a step's partitions: one after another, in this process."""
    return [function(item) for item in items]


@dataclass(frozen=True)
class StepContext:
    """What a running step may ask for.

    scratch: a folder that outlives a kill and is the same when the step is run again, for checkpoints.
    map: runs an importable function over picklable items, in order, on whatever workers there are; the report
        advances with each that is through.
    should_stop: whether somebody asked the run to end; long steps then save and raise `Stopped`.
    previous: the newest other version of what is being made, for steps that take over what has not changed.
    sources: the source files that the step's fingerprint is of; steps that list them again take these and no others.
    """

    scratch: Path
    listener: Listener = field(default_factory=Listener)
    map: Callable[[Callable[..., Any], Iterable[Any]], list[Any]] = map_in_turn
    should_stop: Callable[[], bool] = lambda: False
    previous: Dataset | None = None
    sources: tuple[SourceFile, ...] | None = None

    def files_that_came_later(self, list_now: Callable[[], Iterable[SourceFile]]) -> set[str]:
        """The names of source files that the fingerprint is not of; they are for the next version.

        Raises:
            InputError: a file that it is of is no longer what it was.
        """
        if self.sources is None:
            return set()
        now, before = ({(file.name, file.sha256) for file in files} for files in (list_now(), self.sources))
        if changed := before - now:
            raise InputError(f"{min(changed)[0]} changed while it was read; run again when nothing writes to it.")
        return {name for name, _ in now - before}

    def usable_previous(self, table: str) -> Dataset | None:
        """The version before, if it has the table that says what is what in it, and no byte of it is damaged."""
        if not self.previous or table not in self.previous.manifest.files:
            return None
        if self.previous.is_intact():
            return self.previous
        self.listener.warn(f"{self.previous} is damaged, so nothing is taken from it; see `tokenmill datasets verify`")
        return None


class Stopped(Exception):
    """A step ended early because it was asked to; what it had done is saved and the next run goes on from there."""


@dataclass(frozen=True)
class StepType:
    """A step as its author defines it.

    run: (inputs by role, config, empty output folder, work) -> statistics, a flat mapping of numbers and words.
    version: raised by the author when the meaning changes, so that old results are not taken for new ones.
    sources: for steps that read from outside the store, the files that a config names.
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

    def using(self, name: str, config: Config, inputs: Mapping[str, Ref] | None = None) -> Step:
        """This step with a config and inputs; reads source files, if it has any, to learn their digests."""
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name a dataset; use lower-case letters, digits, '.', '_' and '-'.")
        sources = self.sources(config) if self.sources else ()
        return Step(self, name, config, dict(inputs or {}), sources)


@dataclass(frozen=True)
class Step:
    """One use of a step. Its fingerprint covers all that can change a byte of the output, and nothing else."""

    type: StepType
    name: str
    config: Config
    inputs: Mapping[str, Ref]
    sources: tuple[SourceFile, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the canonical JSON of the step's name and version, its config and its inputs.

        Raises:
            InputError: the config holds a number that is not finite, and so has no JSON.
        """
        try:
            text = canonical_json(self.identity)
        except ValueError:
            raise InputError(f"{self.type.name} {self.name}: a number in its config is not finite.") from None
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "step": self.type.name,
            "version": self.type.version,
            "name": self.name,
            "config": fingerprinted(self.config),
            "inputs": {role: ref.model_dump() for role, ref in sorted(self.inputs.items())},
            "sources": [source.model_dump() for source in self.sources],
        }

    @property
    def folder(self) -> str:
        """Where the result lies below the store's root, as a relative path."""
        return f"{self.type.kind}/{self.name}-{self.fingerprint[:12]}"

    def __str__(self) -> str:
        return f"{self.type.kind}/{self.name}@{self.fingerprint[:12]}"


def canonical_json(value: Any) -> str:
    """JSON with one spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprinted(config: BaseModel) -> dict[str, Any]:
    """The part of a config that can change the output.

    A field declared with `json_schema_extra={"fingerprint": False}` (a place, a worker count) is left out, so
    that the same data read from elsewhere, or by more workers, is the same version.
    """
    kept: dict[str, Any] = {}
    dumped = config.model_dump(mode="json")
    for name, info in type(config).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("fingerprint") is False:
            continue
        value = getattr(config, name)
        kept[name] = _fingerprinted_value(value, dumped[name])
    return kept


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
def code_digest(packages: tuple[str, ...]) -> str:
    """Return the SHA-256 of the packages' code as Python reads it, without comments, docstrings and layout.

    A package stands for all modules below it, so that no list of modules can miss one that changes a byte.
    """
    sha = hashlib.sha256()
    for package in sorted(packages):
        sha.update(f"{package}\n{_package_code(package)}\n".encode())
    return sha.hexdigest()


@lru_cache  # steps share packages, and a module takes some 10 ms
def _package_code(package: str) -> str:
    spec = importlib.util.find_spec(package)  # not imported: that takes longer than all of this
    assert spec and spec.origin
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(path for folder in folders for path in folder.rglob("*.py")) or [Path(spec.origin)]
    return "\n".join(_plain_code(path) for path in files)


def _plain_code(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
