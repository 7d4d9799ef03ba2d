from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.tokens import pretokens
from pipelines.tokens.byte_pairs import BytePairTokenizer
from pipelines.tokens.pretokens import PATTERN, divide
from pipelines.tokens.tokenizers import named_tokenizer

GPT2 = named_tokenizer("gpt2")
TIKTOKEN: Any = GPT2._encoding
ODD = [
    *"  \n\n\t\r\v\f''sStTlLvVrReEmMdD0179.,-!<|>_é́ñ߀٣五日本語½²ªºⅧ〇",
    *map(chr, (0, 0x1C, 0x1F, 0x7F, 0x85, 0xA0, 0xAD, 0x1680, 0x180E, 0x2009, 0x200B, 0x200D, 0x2028, 0x2029, 0x202F)),
    *map(chr, (0x205F, 0x3000, 0xFEFF, 0xFFFD, 0xFFFF, 0x378, 0xE000, 0x1F642, 0x1D7D9, 0x20000, 0x323B0, 0xE0041)),
    *map(chr, (0x301, 0x20E3, 0x0E33, 0x0903, 0x1F1E9, 0x10FFFF)),
    *("'s", "'ll", "'re", "'ve", "'l", " '", "<|endoftext|>", "  ", "\n ", "don't", "٠١", "’s"),
]
ANY_TEXT = st.one_of(
    st.lists(st.sampled_from(ODD), max_size=30).map("".join),
    st.text(max_size=40),
    st.text(st.sampled_from(" '\nslvea")),
)


def check(texts: list[str], tokenizer: BytePairTokenizer = GPT2) -> None:
    expected = [[*tokenizer._encoding.encode_ordinary(text), tokenizer.end_of_text] for text in texts]
    ids, lengths = tokenizer.encode_documents(pa.array(texts, pa.string()))
    assert ids.tolist() == [i for each in expected for i in each]
    assert lengths.tolist() == [len(each) for each in expected]
    assert ids.dtype == tokenizer.dtype


def test_the_pattern_is_the_one_that_tiktoken_uses_for_gpt2() -> None:
    assert GPT2.pattern == PATTERN


@settings(max_examples=600, deadline=None)
@given(texts=st.lists(ANY_TEXT, max_size=5))
@example(["it'", "s", "'", "ll", "'l", "l", " '", "ve"])
@example(["", "", " ", "", "\n", " x", "x ", " ", ""])
@example(["é ", " ", " é", "\u2028", "\u2028\u2028a", "a\u3000\u3000", "b"])
def test_ids_are_tiktokens(texts: list[str]) -> None:
    check(texts)


@pytest.mark.parametrize("between", ["{}", "a{}b", " {} ", "\n{}1{}'s"])
def test_ids_are_tiktokens_for_every_character_there_is(between: str) -> None:
    # Planes behind the second hold ideographs and little else.
    codes = [
        *range(0xD800),
        *range(0xE000, 1 << 17),
        *range(1 << 17, sys.maxunicode, 97 if between == "a{}b" else 4001),
    ]
    check([between.replace("{}", chr(code)) for code in codes])


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(ANY_TEXT, max_size=5))
def test_pieces_are_the_text_and_documents_end_with_an_empty_one(texts: list[str]) -> None:
    pieces = divide(pa.array(texts, pa.string())).to_pylist()
    documents: list[list[bytes]] = [[]]
    for piece in pieces:
        documents[-1].append(piece)
        if not piece:
            documents.append([])
    assert [b"".join(each).decode() for each in documents] == [*texts, ""]


def test_a_slice_of_an_array_is_read_where_it_lies() -> None:
    texts = pa.array(["one 1", "two's", "", "thrée  3", "four"], pa.string())
    for start in range(6):
        for end in range(start, 6):
            ids, _ = GPT2.encode_documents(texts.slice(start, end - start))
            assert GPT2.decode(ids.tolist()) == "".join(f"{text}<|endoftext|>" for text in texts[start:end].to_pylist())


def test_what_is_remembered_is_bounded_and_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens, "MAX_CACHED_BYTES", 50 * 128)
    tokenizer = BytePairTokenizer(GPT2.pattern, GPT2.ranks, GPT2.special, TIKTOKEN)
    rng = np.random.default_rng(0)
    chunks = [[f"{number} mills grind {number % 40}" for number in rng.integers(0, 200, 30)] for _ in range(200)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda texts: check(texts, tokenizer), chunks))
    assert len(tokenizer._encode_pieces._rows) < 200


def test_encodings_with_another_pattern_keep_to_it() -> None:
    other = BytePairTokenizer(r"\S+|\s+", GPT2.ranks, GPT2.special)
    for texts in (["it's 12 o'clock", "", "a\n b"], ["spells <|endoftext|> out", "x"], []):
        check(texts, other)
    assert other.encode("in the").tolist() != GPT2.encode("in the").tolist()
