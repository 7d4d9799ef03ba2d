"""Fixtures of the tests of tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset


@pytest.fixture
def corpus(build: Callable[..., Dataset], tmp_path: Path) -> Dataset:
    """Publish a corpus of about 80 short documents in several parts and all splits."""
    rng = random.Random(0)
    words = ["the", "mill", "grinds", "slowly", "but", "it", "grinds", "well", "and", "the", "Mühle", "mahlt"]
    for i in range(6):
        rows = [{"text": f"{i} {j} " + " ".join(rng.choices(words, k=rng.randint(1, 60)))} for j in range(14)]
        path = tmp_path / f"texts/{i}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts/x.txt").write_text("it spells <|endoftext|> out")
    source, split = {"uri": str(tmp_path / "texts")}, {"validation": 0.2, "test": 0.1}
    return build(INGEST, {"sources": [source], "split": split, "partition_bytes": 2500})
