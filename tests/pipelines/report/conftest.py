"""A small chain of everything, with texts that would do harm in a page; each dataset is built on first use."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chains import BAD, CHAIN, builder

from gpt.config import Config
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepType
from pipelines.store.store import Store


class Strict(Listener):
    """Fails on a warning."""

    def warn(self, sentence: str) -> None:
        raise AssertionError(sentence)


@pytest.fixture(scope="session")
def strict() -> Strict:
    return Strict()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """made(STEP) is the dataset that a step of the chain made; its curves are in MLflow's database."""
    home = tmp_path_factory.mktemp("report")
    record_run(home, "r-pretrain")
    return builder(home, "tiny")


@pytest.fixture(scope="session")
def chain(made: Callable[[str], Dataset]) -> dict[str, Dataset]:
    """Every dataset of the chain, by step."""
    return {step_type.name: made(step_type.name) for step_type, _, _ in CHAIN}


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Dataset]:
    """publish(name, write, prompts=...) publishes an evaluation whose files a function writes."""

    def publish(name: str, write: Callable[[Path], None], prompts: tuple[str, ...] = ()) -> Dataset:
        def run(out: Path, scratch: Path) -> dict[str, Any]:
            write(out)
            return {}

        step = StepType("evaluate", "evaluation", 1, Prompts, run).using(name, Prompts(prompts=prompts))
        return Store(tmp_path / "data").build(step, run)

    return publish


class Prompts(Config):
    prompts: tuple[str, ...] = ()


class Page(HTMLParser):
    """The tags of a page, its text, and everything that a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.headings: list[str] = []
        self.open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open = tag
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "xlink:href") and not (value or "").startswith("#"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, text: str) -> None:
        if self.open in ("h2", "h3") and text.strip():
            self.headings.append(text.strip())


@pytest.fixture(scope="session")
def parse() -> type[Page]:
    """parse(page) is a `Page`."""
    return Page


def record_run(home: Path, run_id: str) -> None:
    """Write a run into MLflow's database, with curves and a text."""
    artifacts = home / "mlruns" / "artifacts"
    (artifacts / "samples").mkdir(parents=True)
    (artifacts / "samples" / "step-000002.txt").write_text(f"And it wrote {BAD}")
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.execute("CREATE TABLE metrics (run_uuid, key, step, value, is_nan)")
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES (?, ?)", (run_id, artifacts.as_uri()))
        for step in range(20):
            for key in ("train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"):
                database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, 0)", (run_id, key, step, 5 - step / 10))
        database.execute("INSERT INTO metrics VALUES (?, 'val/loss', 10, 4.5, 0)", (run_id,))
