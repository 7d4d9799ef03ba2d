from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus import duplicates
from pipelines.corpus.documents import Corpus, document_id
from pipelines.corpus.duplicates import BANDS, band_hashes, find_duplicates, signature_of, words_of
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store

Build = Callable[..., Dataset]


def passage(seed: int, n: int = 200) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.choice('abcdefghij')}{rng.randrange(1000)}" for _ in range(n)]


def ingest(build: Build, tmp_path: Path, texts: Iterable[str], **config: Any) -> Corpus:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Corpus(build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], **config}))


def kept_texts(corpus: Corpus) -> list[str]:
    return [row["text"] for part in corpus.parts for row in read_rows(part)]


def changed(words: list[str], share: float) -> str:
    """With some words at the end replaced, so that the share of equal word sequences is known."""
    n = round(len(words) * share)
    return " ".join(words[:-n] + [f"new{i}" for i in range(n)]) if n else " ".join(words)


@pytest.mark.parametrize("partition_bytes", [1 << 20, 3000])
def test_near_duplicate_names_what_is_kept_and_similarity(build: Build, tmp_path: Path, partition_bytes: int) -> None:
    one, two, three = passage(1), passage(2), passage(3)
    texts = [" ".join(one), " ".join(two), changed(one, 0.05), " ".join(three), changed(two, 0.6), " ".join(one)]
    corpus = ingest(build, tmp_path, texts, near_duplicates=0.7, partition_bytes=partition_bytes)
    assert kept_texts(corpus) == [texts[0], texts[1], texts[3], texts[4]]
    rejected = {row["reason"]: row for row in read_rows(corpus.rejected)}
    near = rejected["near duplicate"]
    first = next(row for part in corpus.parts for row in read_rows(part))
    assert near["text"] == texts[2] and near["kept"] == first["doc_id"]
    true = (200 - 10 - 4) / (200 - 4 + 10)  # of the sequences of five words
    assert abs(near["similarity"] - true) < 0.15
    assert rejected["exact duplicate"]["similarity"] == 1


def test_chain_of_near_duplicates_leads_to_the_first(build: Build, tmp_path: Path) -> None:
    words = passage(1, 400)
    chain = [" ".join(words[10 * i : 10 * i + 300]) for i in range(6)]
    corpus = ingest(build, tmp_path, chain, near_duplicates=0.75)
    (stays,) = [row for part in corpus.parts for row in read_rows(part)]
    assert stays["text"] == chain[0]
    rejected = list(read_rows(corpus.rejected))
    assert {row["kept"] for row in rejected} == {stays["doc_id"]}
    true = [(296 - 10 * i) / (296 + 10 * i) for i in range(1, 6)]  # of the sequences that each shares with the first
    found = sorted((row["similarity"] for row in rejected), reverse=True)
    assert all(abs(a - b) < 0.15 for a, b in zip(found, true, strict=True)) and found[-1] < 0.8


@pytest.mark.parametrize(
    "letters", ["天地玄黄宇宙洪荒日月盈昃辰宿列张", "いろはにほへとちりぬるを", "กขคงจฉชซญดตถทธนบ"]
)
def test_near_duplicates_are_found_in_scripts_without_spaces(letters: str) -> None:
    rng = random.Random(0)
    one, other = ("".join(rng.choices(letters, k=400)) for _ in range(2))
    near = f"{one[:200]}{letters[0]}{one[201:]}。"
    signed = [np.array(signature_of(text)) for text in (one, near, other)]
    assert (signed[0] == signed[1]).mean() > 0.9 and (signed[0] == signed[2]).mean() < 0.1


def test_words_of_spaced_scripts_are_divided_at_white_space() -> None:
    spaced = "The mill's\n2nd  Mühle, 한국어 문장\u3000x"
    assert words_of(spaced) == spaced.lower().split()
    assert words_of("GPT模型 v2") == ["gpt", "模", "型", "v2"]


def test_equals_of_a_near_duplicate_are_dropped_too(build: Build, tmp_path: Path) -> None:
    words = passage(1)
    corpus = ingest(build, tmp_path, [" ".join(words), changed(words, 0.05), changed(words, 0.05)], near_duplicates=0.7)
    (stays,) = [row for part in corpus.parts for row in read_rows(part)]
    rejected = [(row["reason"], row["kept"]) for row in read_rows(corpus.rejected)]
    assert rejected == [("near duplicate", stays["doc_id"])] * 2


def test_different_documents_are_all_kept(build: Build, tmp_path: Path) -> None:
    texts = [" ".join(passage(i, 60)) for i in range(300)] + ["a", "b", "one two", "two one"]
    assert len(kept_texts(ingest(build, tmp_path, texts, near_duplicates=0.7))) == 304


def test_signatures_estimate_the_share_of_common_sequences() -> None:
    words = passage(7, 500)
    signatures = [signature_of(" ".join(part)) for part in (words, words[:-100])]
    a, b = np.array(signatures, np.uint32)
    assert abs((a == b).mean() - 396 / 496) < 0.12
    bands = band_hashes(np.array([a, a, b]))
    assert bands.shape == (3, BANDS) and (bands[0] == bands[1]).all()
    same = (a.reshape(BANDS, -1) == b.reshape(BANDS, -1)).all(axis=1)
    assert ((bands[0] == bands[2]) == same).all()


@pytest.mark.parametrize("sorted_at_once", [2, 1 << 20])
def test_equal_documents_are_found_across_parts_and_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sorted_at_once: int
) -> None:
    monkeypatch.setattr(duplicates, "PREFIXES_PER_RANGE", sorted_at_once)
    rng, first, files, expected = random.Random(0), {}, [], {}
    for part in range(6):
        ids = [document_id(str(rng.randrange(40))) for _ in range(12)] if part != 2 else []
        files.append(tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"doc_id": pa.array(ids, pa.string())}), files[-1])
        for row, doc_id in enumerate(ids):
            if first.setdefault(doc_id, (part, row)) != (part, row):
                expected[part, row] = doc_id
    found = list(read_rows(find_duplicates(files, tmp_path)))
    assert {(row["part"], row["row"]): row["kept"] for row in found} == expected
    assert 20 < len(expected) == len(found)


def test_memory_grows_until_the_query_fits(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, find = [], duplicates._find_duplicates

    def scarce(files: Any, scratch: Path, near: float | None, repeated: Any, memory: int) -> Path:
        limits.append(memory)
        if memory < 256:
            raise duckdb.OutOfMemoryException("no room")
        return find(files, scratch, near, repeated, memory)

    monkeypatch.setattr(duplicates, "_find_duplicates", scarce)
    assert kept_texts(ingest(build, tmp_path, ["a text", "another", "a text"])) == ["a text", "another"]
    assert limits == [16, 64, 256]
    monkeypatch.setattr(duplicates, "MEMORY", (32, 64))
    with pytest.raises(duckdb.OutOfMemoryException):
        ingest(build, tmp_path, ["a text", "a third"])


def test_home_may_have_an_apostrophe_in_its_name(tmp_path: Path) -> None:
    home = tmp_path / "o'neill's"
    home.mkdir()
    store = Store(home / "data")
    (home / "a.jsonl").write_text('{"text": "one"}\n{"text": "one"}\n')
    step = INGEST.using("test", IngestConfig.model_validate({"sources": [{"uri": str(home / "a.jsonl")}]}))
    made = store.build(step, lambda out, scratch: INGEST.run({}, step.config, out, StepContext(scratch)))
    assert made.manifest.statistics["documents"] == 1
