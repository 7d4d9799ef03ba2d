from __future__ import annotations

import gzip
import json
import random
from functools import lru_cache

import pytest
from hostile import LARGE_DICTIONARY
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
    assert problems(read(LARGE_DICTIONARY, "a.txt.xz")) == [("file", "Memory usage limit exceeded")]


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz"])
def test_garbage_behind_an_archive_is_left_out_and_listed(packing: str) -> None:
    found = read(PACK[packing](b"good text") + b"garbage", "a.txt" + packing)
    assert texts(found) == ["good text"]
    assert [reason for _, reason in problems(found)] == ["other bytes follow the compressed data; they are left out"]


SKIPPED = b"\x51\x2a\x4d\x18\x04\0\0\0abcd"


def frame(window: int, text: bytes) -> bytes:
    """Return a zstd frame whose window has 2 ** window bytes, with one block of bare text."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, (window - 10) << 3]) + (len(text) << 3 | 1).to_bytes(3, "little") + text


def test_zstd_frames_are_joined_and_skipped() -> None:
    packed = SKIPPED + frame(20, b"one ") + SKIPPED + frame(27, b"two ") + PACK[".zst"](b"three") + SKIPPED
    assert texts(read(packed, "a.txt")) == ["one two three"]


@pytest.mark.parametrize(("window", "size"), [(28, "256 MB"), (31, "2,048 MB")])
def test_zstd_window_beyond_the_limit_is_named_with_its_cure(window: int, size: str) -> None:
    ((_, reason),) = problems(read(frame(window, b"text"), "a.txt.zst"))
    assert f"a window of {size}" in reason and "zstd -dc --long=31 OLD | zstd -o NEW" in reason
    ((_, reason),) = problems(read(frame(20, b"text") + frame(window, b"text"), "a.txt.zst"))
    assert "a window of more than 128 MB" in reason
