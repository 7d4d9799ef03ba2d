from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.tokens.characters import count_characters, count_words
from pipelines.tokens.tokenizer import END_OF_TEXT, Tokenizer
from pipelines.tokens.tokenizers import load_tokenizer, named_tokenizer, train_byte_pairs

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


def test_gpt2_gives_the_published_ids_without_a_network() -> None:
    gpt2 = KINDS["gpt2"]
    left, right = "Hello, do you like tea? ", " In the sunlit terraces of someunknownPlace."
    assert gpt2.encode(left).tolist() == [15496, 11, 466, 345, 588, 8887, 30, 220]
    assert gpt2.encode(right).tolist() == [554, 262, 4252, 18250, 8812, 2114, 286, 617, 34680, 27271, 13]
    assert gpt2.end_of_text == 50256 and gpt2.vocabulary == 50257


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=ANY_TEXT)
def test_ids_lie_in_the_vocabulary_and_no_text_makes_a_special_one(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    ids = tokenizer.encode(text)
    assert all(i < tokenizer.vocabulary and i != tokenizer.end_of_text for i in ids.tolist())


@pytest.mark.parametrize("kind", ["gpt2", "bpe"])
@given(text=ANY_TEXT)
def test_byte_pairs_lose_nothing(kind: str, text: str) -> None:
    assert KINDS[kind].decode(KINDS[kind].encode(text)) == text
    assert KINDS[kind].token_lengths[KINDS[kind].encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_seen_comes_back(kind: str) -> None:
    tokenizer = count_words(TEXTS) if kind == "words" else KINDS[kind]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(texts=st.lists(ANY_TEXT, max_size=6))
def test_many_documents_at_once_are_each_alone_and_an_end_of_text(kind: str, texts: list[str]) -> None:
    tokenizer = KINDS[kind]
    ids, lengths = tokenizer.encode_documents(pa.array(texts, pa.string()))
    expected = [[*tokenizer.encode(text).tolist(), tokenizer.end_of_text] for text in texts]
    assert lengths.tolist() == [len(each) for each in expected]
    assert ids.tolist() == [i for each in expected for i in each]


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same_and_other_peoples_tools_agree(kind: str, tmp_path: Path) -> None:
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


def test_a_trained_vocabulary_has_the_size_asked_for_and_is_the_same_every_time() -> None:
    again = train_byte_pairs(TEXTS, 300)
    assert again.vocabulary == 300 and again.to_json() == KINDS["bpe"].to_json()
    assert len(KINDS["bpe"].encode(TEXTS[0])) < len(TEXTS[0]) * 0.8


def test_a_corpus_too_small_for_a_vocabulary_says_how_large_it_can_be() -> None:
    with pytest.raises(InputError, match=r"enough for a vocabulary of \d+, not of 5000"):
        train_byte_pairs(["tiny"], 5000)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_added_behind_the_vocabulary(kind: str, tmp_path: Path) -> None:
    before = KINDS[kind]
    tokenizer = before.with_special(["<|user|>", END_OF_TEXT, "<|assistant|>", "<|user|>"])
    assert tokenizer.special["<|user|>"] == before.vocabulary
    assert tokenizer.vocabulary == before.vocabulary + 2
    assert tokenizer.encode(TEXTS[0]).tolist() == before.encode(TEXTS[0]).tolist()
    assert tokenizer.special["<|user|>"] not in tokenizer.encode("<|user|>").tolist()
    assert tokenizer.token_lengths[list(tokenizer.special.values())].sum() == 0
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).special == tokenizer.special


def test_the_teaching_kinds_know_one_token_for_all_they_have_not_seen() -> None:
    for kind in ("characters", "words"):
        tokenizer = KINDS[kind]
        assert tokenizer.special["<|unk|>"] in tokenizer.encode("ξenon").tolist()
    assert KINDS["characters"].encode("ξ").tolist() == [KINDS["characters"].special["<|unk|>"]]


def test_ids_are_stored_in_two_bytes_while_they_fit() -> None:
    assert KINDS["gpt2"].dtype is np.uint16
    more = KINDS["gpt2"].with_special([f"<|{i}|>" for i in range((1 << 16) - 50257 + 1)])
    assert more.dtype is np.uint32


def test_an_unknown_id_and_an_unknown_encoding_are_refused() -> None:
    with pytest.raises(ValueError, match="outside the vocabulary of 300"):
        KINDS["bpe"].decode([300])
    with pytest.raises(ValueError, match="outside the vocabulary of 300"):
        KINDS["bpe"].decode(iter([1, -1]))
    with pytest.raises(InputError, match="no encoding 'gpt9'; known are gpt2, "):
        named_tokenizer("gpt9")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    for content in ("{", "[]", json.dumps({"model": {"type": "Unigram"}})):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="not a tokenizer"):
            load_tokenizer(tmp_path)


def test_bytes_within_a_character_are_kept_until_the_character_is_whole() -> None:
    gpt2 = KINDS["gpt2"]
    ids = gpt2.encode("🙂").tolist()
    assert len(ids) > 1 and gpt2.decode(ids[:1]) == "\ufffd"
    assert gpt2.decode_bytes(ids[:1]) + gpt2.decode_bytes(ids[1:]) == "🙂".encode()
