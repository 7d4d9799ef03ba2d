"""Files of other programs: the ids of their own library, or a sentence."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.tokens.byte_pairs import BytePairTokenizer
from pipelines.tokens.library import LibraryTokenizer
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.tokens.tokenizer import Tokenizer
from pipelines.tokens.tokenizers import is_own, load_tokenizer

File = dict[str, Any]

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LEARNT_FROM = ["The mill grinds 1234 bags of corn; it's the mill's 12th year.\n    the miller says: well,  well"] * 3
TEXTS = [
    *LEARNT_FROM,
    "Die Mühle, 日本語 🙂  12\u00a0m\r\n\n\tcafe\u0301 x  12 don't WE'LL 3.14159",
    "spells <|endoftext|>, <s> and </s>, <|im_start|>user <0x41>",
    " " * 50 + "=" * 30 + "a" * 300,
    *("", " ", "\n", " x ", "'s"),
]
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    return pre_tokenizers.Split(hf.Regex(pattern), behavior, invert)


def byte_level(*steps: Any, special: tuple[str, ...] = ("<|endoftext|>",), normalizer: Any = None, **more: Any) -> File:
    """Return a file with byte pairs in GPT-2's letters."""
    made = hf.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.Sequence(list(steps)) if steps[1:] else steps[0],
        decoders.ByteLevel(),
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=letters, show_progress=False, special_tokens=list(special)
    )
    made.train_from_iterator(LEARNT_FROM, trainer)
    if normalizer:
        made.normalizer = normalizer
    value: File = json.loads(made.to_str())
    value["model"] |= more
    return value


def sentence_piece(normalizer: Any, pre_tokenizer: Any = None) -> File:
    """Return a file as those of Llama 2 and Gemma: spaces are marks, and unknown letters are bytes."""
    made = hf.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))  # noqa: S106 - a token of text
    made.normalizer, made.pre_tokenizer = normalizer, split("▁", "merged_with_next")
    every = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *every], show_progress=False)
    made.train_from_iterator(LEARNT_FROM, trainer)
    value: File = json.loads(made.to_str())
    return value | {"added_tokens": value["added_tokens"][:3], "pre_tokenizer": pre_tokenizer}


def with_added(file: File, *contents: str, **flags: bool) -> File:
    first = len(file["model"]["vocab"])
    new = [{"id": first + i, "content": content, **FLAGS, **flags} for i, content in enumerate(contents)]
    return file | {"added_tokens": file["added_tokens"] + new}


def fewer_merges(file: File, **more: Any) -> File:
    return file | {"model": file["model"] | {"merges": file["model"]["merges"][::2]} | more}


GPT2 = byte_level(PLAIN)
BEGIN = {"id": "<s>", "ids": [0], "tokens": ["<s>"]}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": BEGIN},
}
CUT = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
FILLED = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])

GEMMA = sentence_piece(normalizers.Replace(" ", "▁"))
MILL = {**FLAGS, "special": False, "content": "▁mill", "id": GEMMA["model"]["vocab"]["▁mill"]}

FAST = {
    "gpt2": GPT2,
    "llama 3": byte_level(split(LLAMA), BYTES, special=("<s>",), ignore_merges=True) | {"post_processor": TEMPLATE},
    "merges as strings": GPT2 | {"model": GPT2["model"] | {"merges": [" ".join(m) for m in GPT2["model"]["merges"]]}},
    "cut and filled": GPT2 | {"truncation": CUT, "padding": {**FILLED, "pad_token": "<|endoftext|>"}},
}
BY_LIBRARY = {
    "qwen 2": byte_level(split(LLAMA.replace("{1,3}", "")), BYTES, normalizer=normalizers.NFC()),
    "smollm 2": byte_level(pre_tokenizers.Digits(individual_digits=True), PLAIN),
    "several splits": byte_level(split(r"\p{N}{1,3}"), split(LLAMA), BYTES),
    "space first": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "pattern that does not match all": byte_level(split(r"\p{N}+"), BYTES),
    "missing merges": fewer_merges(GPT2),
    "ignored merges": fewer_merges(GPT2, ignore_merges=True),
    "merges in another order": GPT2 | {"model": GPT2["model"] | {"merges": sorted(GPT2["model"]["merges"])}},
    "tokens of blanks": with_added(GPT2, "  ", "    ", special=False),
    "llama 2": sentence_piece(PREPEND),
    "gemma": GEMMA | {"added_tokens": [*GEMMA["added_tokens"], MILL]},
    "metaspace": sentence_piece(PREPEND, METASPACE) | {"normalizer": None},
}
KEPT = FAST | BY_LIBRARY


def word_piece() -> File:
    made = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(LEARNT_FROM, trainers.WordPieceTrainer(vocab_size=99, show_progress=False))
    return dict(json.loads(made.to_str()))


def unigram() -> File:
    pieces = [["<unk>", 0.0], *([letter, -9.0] for letter in sorted(set("".join(LEARNT_FROM)) | {"▁"}))]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    return GPT2 | {"model": model, "pre_tokenizer": METASPACE, "added_tokens": []}


REFUSED = {
    "its model WordPiece would lose letters": word_piece(),
    "its model Unigram lacks tokens for bytes": unigram(),
    "its normalizer Lowercase changes text: 'The mill' becomes 'the mill'": byte_level(
        PLAIN, normalizer=normalizers.Lowercase()
    ),
    "its normalizer NFKC changes text": byte_level(PLAIN, normalizer=normalizers.NFKC()),
    "its pre_tokenizer Split, ByteLevel changes text": byte_level(split(r"\s+", "removed"), BYTES),
    "its model has a dropout": GPT2 | {"model": GPT2["model"] | {"dropout": 0.1}},
    "its model BPE changes text: 'a MASK MA' becomes 'aMASKMASK": with_added(
        GPT2, "MASK", special=False, lstrip=True, rstrip=True
    ),
    "the added token '<x>' cannot have the id 999": GPT2
    | {"added_tokens": [*GPT2["added_tokens"], {**FLAGS, "id": 999, "content": "<x>"}]},
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[[File], Tokenizer]:
    def load_file(value: File) -> Tokenizer:
        (tmp_path / "theirs.json").write_text(json.dumps(value))
        return load_tokenizer(tmp_path / "theirs.json")

    return load_file


@pytest.mark.parametrize("name", KEPT)
def test_ids_are_those_of_the_own_library(name: str, load: Callable[[File], Tokenizer], tmp_path: Path) -> None:
    theirs = hf.Tokenizer.from_str(json.dumps(KEPT[name] | {"truncation": None, "padding": None}))
    theirs.encode_special_tokens = True
    ours = load(KEPT[name])
    assert type(ours) is (BytePairTokenizer if name in FAST else LibraryTokenizer)
    ours.save(tmp_path)
    same = [ours, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(ours))]  # noqa: S301 - our own bytes
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert [each.encode(text).tolist() for each in same] == [ids] * 3
        assert not set(ids) & set(ours.special.values())
        assert text.replace("e\u0301", "é") in (
            found := ours.decode(ids).replace("e\u0301", "é"),
            found.removeprefix(" "),
        )
    joined, lengths = ours.encode_documents(pa.array(TEXTS))
    assert joined.tolist() == [i for text in TEXTS for i in [*ours.encode(text).tolist(), ours.end_of_text]]
    assert lengths.sum() == len(joined)


@pytest.mark.parametrize("sentence", REFUSED)
def test_part_that_loses_text_is_named(sentence: str, load: Callable[[File], Tokenizer]) -> None:
    with pytest.raises(InputError, match=r"theirs\.json .*" + re.escape(sentence)):
        load(REFUSED[sentence])


@pytest.mark.parametrize("name", ["gpt2", "smollm 2"])
def test_chat_tokens_of_a_file_keep_their_ids(name: str, load: Callable[[File], Tokenizer]) -> None:
    file = with_added(KEPT[name], "<|im_start|>", special=False)
    tokenizer = load(file).with_special(["<|im_start|>", "<|new|>"])
    start = len(file["model"]["vocab"])
    assert [tokenizer.special[token] for token in ("<|im_start|>", "<|new|>")] == [start, start + 1]
    assert start in load(file).encode("<|im_start|>") and start not in tokenizer.encode("<|im_start|>")


def test_special_token_that_a_model_spells_is_cut(load: Callable[[File], Tokenizer]) -> None:
    file = byte_level(split("never"), BYTES, ignore_merges=True)
    tokenizer = load(file)
    ids = tokenizer.encode("<|endoftext|>").tolist()
    assert tokenizer.end_of_text not in ids and tokenizer.decode(ids) == "<|endoftext|>"


def test_corpus_is_encoded_by_a_foreign_file(build: Callable[..., Dataset], tmp_path: Path) -> None:
    (tmp_path / "mill.txt").write_text(TEXTS[0])
    (tmp_path / "tokenizer.json").write_text("\ufeff" + json.dumps(KEPT["several splits"]), encoding="utf-8")
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "mill.txt")}], "split": {"validation": 0, "test": 0}})
    dataset = build(TOKENIZE, {"tokenizer": str(tmp_path)}, corpus=corpus)
    tokens = Tokens(dataset)
    theirs = hf.Tokenizer.from_str(json.dumps(KEPT["several splits"]))
    assert tokens.flat(0).tolist() == [*theirs.encode(TEXTS[0]).ids, theirs.token_to_id("<|endoftext|>")]
    assert tokens.tokenizer.decode(tokens.flat(0)[:-1].tolist()) == TEXTS[0]
    assert is_own(dataset.path / "tokenizer.json") is is_own(tmp_path) is False
