"""What a newcomer does first: a config with one source and nothing else runs to an evaluated model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipelines.chain import chain
from pipelines.config import load_config
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, StepContext
from pipelines.store.store import Store

CONFIG = """
name = "first"
[[ingest.sources]]
uri = "{uri}"
[tokenize]
encoding = "characters"
[sample]
context = 16
[pretrain]
steps = 1
batch_size = 2
threads = 1
[pretrain.model]
size = "pico"
[evaluate]
max_tokens = 300
memorisation = {{ prefixes = 1, prefix_tokens = 4, run_tokens = 4, at_least = 2 }}
"""


def prose(n_words: int) -> str:
    words = random.Random(1)
    return " ".join(words.choice(("mill", "river", "wheel", "flour.\n\n")) for _ in range(n_words))


def run(tmp_path: Path, name: str, text: str, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """Run the chain of a config with one file, and return the statistics of each step."""
    (tmp_path / name).write_text(text)
    (tmp_path / "run.toml").write_text(CONFIG.format(uri=tmp_path / name))
    store, statistics = Store(tmp_path / "home/data"), {}

    def perform(step: Step) -> Dataset:
        made = store.build(
            step, lambda out, scratch: step.type.run(step.inputs, step.config, out, StepContext(scratch))
        )
        statistics[step.type.name] = dict(made.manifest.statistics)
        return made

    chain(perform, load_config(tmp_path / "run.toml", overrides))
    return statistics


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "text", "overrides"),
    [
        ("book.txt", prose(2000), []),
        ("book.txt", prose(2000), ["ingest.split.validation=0"]),
        ("lines.txt", "the same line again\n" * 60, []),
        ("five.jsonl", "".join(f'{{"text": "number {i} of some texts about mills"}}\n' for i in range(5)), []),
    ],
)
def test_one_file_becomes_an_evaluated_model(tmp_path: Path, name: str, text: str, overrides: list[str]) -> None:
    statistics = run(tmp_path, name, text, overrides)
    assert list(statistics) == ["ingest", "tokenize", "sample", "pretrain", "evaluate-language"]
    assert ("best_val_loss" in statistics["pretrain"]) == (not overrides)
    assert statistics["evaluate-language"]["test/loss"] > 0


def test_text_that_cannot_be_divided_is_refused_in_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 document, and none .*: split_at or max_document .*\[ingest\.split\]"):
        run(tmp_path, "note.txt", "A short note about a mill by a river.", [])
    assert [path.name for path in (tmp_path / "home/data").iterdir() if not path.name.startswith(".")] == ["corpus"]
