"""A small chain of everything, with texts that would do harm in a page; each dataset is built on first use."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chains import CHAIN

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
