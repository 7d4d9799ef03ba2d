from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.errors import InputError
from pipelines.tokens.byte_pairs import BytePairTokenizer, train_byte_pairs
from pipelines.tokens.tokenizers import named_tokenizer

GPT2 = named_tokenizer("gpt2")

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
