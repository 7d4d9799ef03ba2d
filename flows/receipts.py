"""Receipts: what a run that came to its end was asked and what it made, so that asking the same again takes no time.

A receipt is good for the same config, code and files, as long as all that was made is there. Then nothing is imported,
no server is asked, and neither Prefect nor MLflow gets a run in which nothing was done.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.home import Home
from flows.summary import Outcome
from pipelines.errors import InputError
from pipelines.sources import list_files
from pipelines.step import Ref
from pipelines.store import write_json

CODE = Path(__file__).resolve().parent.parent


class Receipt:
    """The receipt of a flow with a config, which may have been written or not.

    Args:
        flow: the flow's name.
        config: the config's file, of which only the text counts here; what it says is checked by who runs it.
        overrides: as on the command line.
    """

    def __init__(self, home: Home, flow: str, config: Path, overrides: Sequence[str]) -> None:
        self.home = home
        self.file: Path | None = None
        try:
            text = config.read_text(encoding="utf-8")
            values = tomllib.loads(text)
            named = _files([values, *map(_value, overrides)])
            asked = [flow, text, *overrides, str(Path.cwd()), home.mlflow_uri, *_code(), *named]
        except (OSError, ValueError, InputError):
            return  # whoever runs it says what is wrong
        # What goes on from a champion depends on which that is, and what lies in a bucket, on others.
        goes_on = "base" in values or any(each.partition("=")[0].strip() == "base" for each in overrides)
        if home.store.bucket is None and not goes_on:
            digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
            self.file = home.path / ".tokenmill" / "receipts" / f"{digest}.json"

    def read(self) -> tuple[str, list[Outcome]]:
        """The run's name and what it made, if it came to its end and all of that is there; else nothing."""
        uri = self.home.mlflow_uri
        tracked = not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists()
        if not self.file or not self.file.exists() or not tracked:
            return "", []
        store = self.home.store
        try:
            name, made, champions = json.loads(self.file.read_bytes())
            if champions != self._champions(said for _, _, said in made):
                return "", []  # somebody has promoted or rolled back since
            return name, [Outcome(step, store.open(Ref(**ref)), 0.0, True, said) for step, ref, said in made]
        except (InputError, ValueError, TypeError):
            return "", []

    def write(self, name: str, outcomes: Sequence[Outcome]) -> None:
        """Note that the run came to its end, and what it made."""
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            made = [[o.step, o.dataset.ref.model_dump(), o.said] for o in outcomes]
            write_json(self.file, [name, made, self._champions(o.said for o in outcomes)])

    def _champions(self, said: Iterable[str]) -> list[str]:
        """The champions there are, if the run decided about any."""
        if not any(said):
            return []
        from pipelines.registry import CHAMPION, registered

        return [str(each) for each in registered(self.home.mlflow_uri) if CHAMPION in each.aliases]


def _value(override: str) -> Any:
    text = override.partition("=")[2]
    try:
        return tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()


def _code() -> Iterator[str]:
    """The state of every module of ours."""
    for package in ("flows", "gpt", "pipelines"):
        for path in sorted((CODE / package).rglob("*.py")):
            status = path.stat()
            yield f"{path} {status.st_size} {status.st_mtime_ns}"


def _files(value: Any) -> Iterator[str]:
    """The state of every file that a config names.

    Raises:
        ValueError: it cannot be told from outside whether a file has changed.
    """
    match value:
        case dict():
            for key, each in value.items():
                yield from _sources(each) if key == "uri" else _files(each)
        case list():
            for each in value:
                yield from _files(each)
        case str() if Path(value).exists():
            yield from _sources(value)


def _sources(uri: str) -> Iterator[str]:
    for file in list_files(uri)[0]:
        if not file.state:
            raise ValueError(f"{file.uri} does not say when it changed")
        yield f"{file.uri} {file.bytes} {file.state}"
