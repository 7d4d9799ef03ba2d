"""What holds for tokenizers of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tokens.byte_pairs import train_byte_pairs
from pipelines.tokens.characters import count_characters, count_words
from pipelines.tokens.tokenizer import END_OF_TEXT, Tokenizer
from pipelines.tokens.tokenizers import load_tokenizer, named_tokenizer

TEXTS = [
    "The mill grinds slowly, but it grinds well. Don't you think so? It's 1,234 years old!",
    "Die Mühle mahlt langsam, aber sie mahlt gut.\n\n  Größe: 12\u00a0m; 日本語 🙂",
    "grinding, grinds, ground; slower and slowly, the slowest of all the mills in the land",
] * 3
KINDS: dict[str, Tokenizer] = {
    "gpt2": named_tokenizer("gpt2"),
    "bpe": train_byte_pairs(TEXTS, 300),
    "characters": count_characters(TEXTS),
    "words": count_words(TEXTS, 40),
}
ANY_TEXT = st.one_of(st.text(max_size=60), st.text(st.sampled_from("the mil\n'12 ü日<|endoftext|>"), max_size=60))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=ANY_TEXT)
def test_no_text_is_encoded_as_a_special_token(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(text)
    assert all(i < tokenizer.vocabulary and i != tokenizer.end_of_text for i in ids.tolist())


@pytest.mark.parametrize("kind", ["gpt2", "bpe"])
@given(text=ANY_TEXT)
def test_byte_pairs_are_lossless(kind: str, text: str) -> None:
    assert KINDS[kind].decode(KINDS[kind].encode(text)) == text
    assert KINDS[kind].token_lengths[KINDS[kind].encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_training_texts_are_decoded_exactly(kind: str) -> None:
    tokenizer = count_words(TEXTS) if kind == "words" else KINDS[kind]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(texts=st.lists(ANY_TEXT, max_size=6))
def test_many_documents_are_encoded_as_each_alone(kind: str, texts: list[str]) -> None:
    tokenizer = KINDS[kind]
    ids, lengths = tokenizer.encode_documents(pa.array(texts, pa.string()))
    expected = [[*tokenizer.encode(text).tolist(), tokenizer.end_of_text] for text in texts]
    assert lengths.tolist() == [len(each) for each in expected]
    assert ids.tolist() == [i for each in expected for i in each]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_is_the_same_for_hugging_face(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]
    path = tokenizer.save(tmp_path)
    loaded, theirs = load_tokenizer(tmp_path), hf.Tokenizer.from_file(str(path))
    assert loaded.token_bytes == tokenizer.token_bytes and loaded.special == tokenizer.special
    assert theirs.get_vocab_size() == tokenizer.vocabulary
    for text in [*TEXTS, "never seen: ξ ☃", " ", ""]:
        ids = tokenizer.encode(text).tolist()
        assert loaded.encode(text).tolist() == ids
        assert theirs.encode(text).ids == ids
    assert theirs.token_to_id(END_OF_TEXT) == tokenizer.end_of_text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_added_after_the_vocabulary(kind: str, tmp_path: Path) -> None:
    before = KINDS[kind]
    tokenizer = before.with_special(["<|user|>", END_OF_TEXT, "<|assistant|>", "<|user|>"])
    assert tokenizer.special["<|user|>"] == before.vocabulary
    assert tokenizer.vocabulary == before.vocabulary + 2
    assert tokenizer.encode(TEXTS[0]).tolist() == before.encode(TEXTS[0]).tolist()
    assert tokenizer.special["<|user|>"] not in tokenizer.encode("<|user|>").tolist()
    assert tokenizer.token_lengths[list(tokenizer.special.values())].sum() == 0
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).special == tokenizer.special


def test_ids_are_stored_in_two_bytes_while_they_fit() -> None:
    assert KINDS["gpt2"].dtype is np.uint16
    more = KINDS["gpt2"].with_special([f"<|{i}|>" for i in range((1 << 16) - 50257 + 1)])
    assert more.dtype is np.uint32


def test_unknown_id_is_rejected() -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 300"):
        KINDS["bpe"].decode([300])
    with pytest.raises(ValueError, match="outside the vocabulary of 300"):
        KINDS["bpe"].decode(iter([1, -1]))
