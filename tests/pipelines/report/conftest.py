"""A small chain of everything, with texts that would do harm in a page; each dataset is built on first use."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from chains import CHAIN

from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener


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
