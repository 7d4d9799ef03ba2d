from __future__ import annotations

import gzip
import json
import lzma
import random
from functools import lru_cache

import pytest
from reading import PACK, problems, read, texts

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_archive_broken_at_a_line_end_is_a_problem(packing: str) -> None:
    lines = [json.dumps({"text": f"{random.getrandbits(180):051x}"}) for _ in range(30_000)]
    assert {len(line) for line in lines} == {64 - 1}  # zstd packs 128 KB at a time, so each of these ends with a line
    packed = PACK[packing]("\n".join([*lines, ""]).encode())
    for kept in (len(packed) // 2, len(packed) - 1):
        assert problems(read(packed[:kept], "a.jsonl" + packing))


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_broken_archive_gives_records_before_the_break(packing: str) -> None:
    lines = [json.dumps({"text": f"line {i} {hash(str(i))}"}) for i in range(60_000)]
    packed = PACK[packing]("\n".join(lines).encode())
    found = read(packed[: len(packed) * 9 // 10], "a.jsonl" + packing)
    good = texts(found)
    assert 0 < len(good) < len(lines) and good == [json.loads(line)["text"] for line in lines[: len(good)]]
    assert problems(found)


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_archive_of_several_streams_is_read_and_checked(packing: str) -> None:
    pack = PACK[packing]
    first, second = (pack("".join(json.dumps({"text": f"{i} {j}"}) + "\n" for j in range(9)).encode()) for i in (1, 2))
    assert len(texts(read(first + second, "a.jsonl" + packing))) == 18
    broken = read(first + b"X" + second, "a.jsonl" + packing)
    assert problems(broken)
    if packing != ".zst":  # whose blocks come out together
        assert len(texts(broken)) == 9
        assert not problems(read(first + bytes(512), "a.jsonl" + packing))


@lru_cache
def zeros(packing: str, n: int) -> bytes:
    return PACK[packing](b"0" * n)


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet", "a.pdf"])
def test_decompression_bomb_is_refused(name: str, packing: str) -> None:
    n, limits = (60 << 20, 0.2) if name in ("a.txt", "a.jsonl", "a.csv") else (70 << 20, 0.25)
    found = read(zeros(packing, n), name + packing, limits=limits)
    assert "decompression bomb" in problems(found)[-1][1]


def test_well_packed_text_is_no_bomb() -> None:
    assert texts(read(gzip.compress(b"0" * 1_000_000), "a.txt.gz")) == ["0" * 1_000_000]


def test_archive_that_asks_for_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1536 << 20}]
    assert problems(read(lzma.compress(b"text", filters=filters), "a.txt.xz")) == [
        ("file", "Memory usage limit exceeded")
    ]
