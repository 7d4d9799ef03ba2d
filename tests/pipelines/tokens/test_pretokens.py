from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from pipelines.tokens import pretokens
from pipelines.tokens.pretokens import PATTERN, PieceEncoder, divide
from pipelines.tokens.tokenizer import END_OF_TEXT
from pipelines.tokens.tokenizers import named_tokenizer

pytestmark = pytest.mark.integration

GPT2 = named_tokenizer("gpt2")
TIKTOKEN = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=GPT2.ranks, special_tokens=GPT2.special)

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


def new_encoder() -> PieceEncoder:
    def encode(pieces: list[str]) -> np.ndarray:
        joined = END_OF_TEXT.join([*pieces, ""])
        return TIKTOKEN.encode_to_numpy(joined, allowed_special={END_OF_TEXT}, disallowed_special=())

    return PieceEncoder(encode, GPT2.end_of_text, GPT2.dtype)


ENCODER = new_encoder()


def check(texts: list[str], encoder: PieceEncoder = ENCODER) -> None:
    expected = [[*TIKTOKEN.encode_ordinary(text), GPT2.end_of_text] for text in texts]
    ids = encoder(pa.array(texts, pa.string()))
    assert ids.tolist() == [i for each in expected for i in each] and ids.dtype == GPT2.dtype


def test_pattern_is_the_one_of_tiktokens_gpt2() -> None:
    assert openai_public.r50k_pat_str == PATTERN


@settings(max_examples=600, deadline=None)
@given(texts=st.lists(ANY_TEXT, max_size=5))
@example(["it'", "s", "'", "ll", "'l", "l", " '", "ve"])
@example(["", "", " ", "", "\n", " x", "x ", " ", ""])
@example(["é ", " ", " é", "\u2028", "\u2028\u2028a", "a\u3000\u3000", "b"])
def test_ids_are_tiktokens(texts: list[str]) -> None:
    check(texts)


@pytest.mark.parametrize("context", ["{}", "\n{}1{}'s a{}b {} "])
def test_every_character_is_encoded_like_tiktoken_does(context: str) -> None:
    # Planes after the second hold ideographs and little else.
    codes = [*range(0xD800), *range(0xE000, 1 << 17), *range(1 << 17, sys.maxunicode, 97 if "a" in context else 4001)]
    check([context.replace("{}", chr(code)) for code in codes])


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(ANY_TEXT, max_size=5))
def test_pieces_join_to_their_documents(texts: list[str]) -> None:
    pieces = divide(pa.array(texts, pa.string())).to_pylist()
    documents: list[list[bytes]] = [[]]
    for piece in pieces:
        documents[-1].append(piece)
        if not piece:
            documents.append([])
    assert [b"".join(each).decode() for each in documents] == [*texts, ""]


def test_slices_of_arrays_are_encoded() -> None:
    texts = pa.array(["one 1", "two's", "", "thrée  3", "four"], pa.string())
    for start in range(6):
        for end in range(start, 6):
            ids = ENCODER(texts.slice(start, end - start))
            assert GPT2.decode(ids.tolist()) == "".join(f"{text}<|endoftext|>" for text in texts[start:end].to_pylist())


def test_cache_is_bounded_and_shared_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens, "MAX_CACHED_BYTES", 50 * 128)
    encoder = new_encoder()
    rng = np.random.default_rng(0)
    chunks = [[f"{number} mills grind {number % 40}" for number in rng.integers(0, 200, 30)] for _ in range(200)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda texts: check(texts, encoder), chunks))
    assert len(encoder._rows) < 200
