"""Helpers of the tests of corpora: source files are written and published rows are read."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.corpus.documents import Corpus
from pipelines.corpus.parquet import read_rows
from pipelines.store.dataset import Dataset


def documents(corpus: Dataset) -> list[dict[str, Any]]:
    return [row for part in Corpus(corpus).parts for row in read_rows(part)]


def rejected(corpus: Dataset) -> list[dict[str, Any]]:
    return list(read_rows(Corpus(corpus).rejected))


def write_lines(path: Path, texts: Iterable[str], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text, **more}, ensure_ascii=False) + "\n" for text in texts))
    return path


def several(n: int, size: int = 200) -> list[str]:
    words = random.Random(1)
    return [f"{i} " + "".join(words.choice("abcdefg \n") for _ in range(size)) for i in range(n)]
