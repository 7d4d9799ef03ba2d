from __future__ import annotations

import random
import time
from string import ascii_letters, digits

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.tokens.byte_pairs import BytePairTokenizer, train_byte_pairs
from pipelines.tokens.tokenizers import named_tokenizer

GPT2 = named_tokenizer("gpt2")
# The pattern of Llama 3, as an imported model brings it.
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OTHER = BytePairTokenizer(LLAMA, GPT2.ranks, GPT2.special)

TEXTS = [
    "The mill grinds slowly, but it grinds well. Don't you think so? It's 1,234 years old!",
    "Die Mühle mahlt langsam, aber sie mahlt gut.\n\n  Größe: 12\u00a0m; 日本語 🙂",
    "grinding, grinds, ground; slower and slowly, the slowest of all the mills in the land",
] * 3


def test_trained_vocabulary_has_its_size_and_is_reproducible() -> None:
    first, second = (train_byte_pairs(TEXTS, 300) for _ in range(2))
    assert second.vocabulary == 300 and second.to_json() == first.to_json()
    assert len(first.encode(TEXTS[0])) < len(TEXTS[0]) * 0.8


def test_too_small_corpus_error_names_the_largest_vocabulary() -> None:
    with pytest.raises(InputError, match=r"enough for a vocabulary of \d+, not of 5000"):
        train_byte_pairs(["tiny"], 5000)


def test_bytes_of_a_split_character_are_kept() -> None:
    ids = GPT2.encode("🙂").tolist()
    assert len(ids) > 1 and GPT2.decode(ids[:1]) == "\ufffd"
    assert GPT2.decode_bytes(ids[:1]) + GPT2.decode_bytes(ids[1:]) == "🙂".encode()


def test_encodings_keep_their_own_pattern() -> None:
    other = BytePairTokenizer(r"\S+|\s+", GPT2.ranks, GPT2.special)
    for texts in (["it's 12 o'clock", "", "a\n b"], ["spells <|endoftext|> out", "x"], []):
        ids, lengths = other.encode_documents(pa.array(texts, pa.string()))
        expected = [[*other.encode(text).tolist(), other.end_of_text] for text in texts]
        assert ids.tolist() == [i for each in expected for i in each]
        assert lengths.tolist() == [len(each) for each in expected] and ids.dtype == other.dtype
    assert other.encode("in the").tolist() != GPT2.encode("in the").tolist()


@given(
    st.text(
        st.sampled_from("aé1 \n\r\t\u00a0'sLl.中🙂") | st.characters(codec="utf-8", max_codepoint=0x2FF), max_size=60
    )
)
def test_pieces_of_both_regex_engines_are_equal(text: str) -> None:
    for tokenizer in (GPT2, OTHER):
        assert tokenizer._encode_exhausting(text).tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("tokenizer", [GPT2, OTHER], ids=["gpt2", "llama"])
def test_million_spaces_are_encoded(tokenizer: BytePairTokenizer) -> None:
    text = "a" + " " * 1_100_000 + "b"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    joined, lengths = tokenizer.encode_documents(pa.array([text, "c"]))
    assert joined[: lengths[0] - 1].tolist() == ids.tolist() and len(lengths) == 2


def test_very_long_words_are_learnt_in_parts() -> None:
    words = ["a" * 200_000, "ab" * 100_000 + "c", " " * 200_000 + "x", "\u0301\u0323" * 50_000]
    assert train_byte_pairs(words, 270).vocabulary == 270


UNBROKEN = {
    "dna": "ACGT",
    "base64": ascii_letters + digits,
    "chinese": "".join(map(chr, range(0x4E00, 0x5000))),
    "one": "a",
}


@pytest.mark.slow
@pytest.mark.parametrize("letters", UNBROKEN.values(), ids=UNBROKEN)
def test_megabyte_without_a_break_is_learnt_and_encoded_soon(letters: str) -> None:
    text = "".join(random.Random(0).choices(letters, k=1_000_000 // len(letters[0].encode())))
    vocabulary = 4096 if len(letters) > 1 else 260
    started = time.process_time()
    tokenizer = train_byte_pairs([text], vocabulary)
    assert time.process_time() - started < 5
    for each in (tokenizer, GPT2):
        started = time.process_time()
        ids, _ = each.encode_documents(pa.array([text]))
        assert time.process_time() - started < 5 and each.decode(ids[:-1].tolist()) == text
