"""Byte-pair tokenizers, and learning one from texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
import tiktoken
from numpy.typing import NDArray

from pipelines.errors import InputError
from pipelines.tokens.pretokens import PATTERN, PieceEncoder, divide
from pipelines.tokens.tokenizer import END_OF_TEXT, Ids, Tokenizer, add_ids, hugging_face_json, split_at

EVERY_KIND = "aB é 日 12\t \n_'.\u0301 "  # of characters that a pattern may leave out
MERGES_COMPARED = 500  # tokens of a file whose merges are compared with ours
MOST_UNBROKEN = 32 << 20  # bytes of long pieces to learn from
LONG_PIECE = 32  # bytes; words are shorter
LONGEST_PIECE = 1_000  # characters that are learnt from as one word: each merge walks through the words that it changes


class BytePairTokenizer(Tokenizer):
    """Byte-pair encoding (Sennrich et al. 2016) over UTF-8 bytes, like GPT-2's. tiktoken encodes.

    Attributes:
        pattern: the regular expression that first divides a text into pieces.
        ranks: id of every token by its bytes. Lower ids are merged first.
    """

    def __init__(self, pattern: str, ranks: dict[bytes, int], special: dict[str, int], encoding: Any = None) -> None:
        """Make a tokenizer, from an encoding of tiktoken if there is one already."""
        self.pattern, self.ranks, self.special = pattern, ranks, special
        self._encoding = encoding or tiktoken.Encoding(
            "tokenmill", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
        )

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Return the text of each id in UTF-8, by id."""
        tokens = [b""] * (max([*self.ranks.values(), *self.special.values()]) + 1)
        for token, i in self.ranks.items():
            tokens[i] = token
        for name, i in self.special.items():
            tokens[i] = name.encode()
        return tokens

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, without special tokens."""
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:
            return self._encode_exhausting(text)

    def _encode_exhausting(self, text: str) -> Ids:
        """Return the ids of a text that exhausts tiktoken's expressions, as a million spaces do."""
        encode = self._encoding._encode_single_piece
        ids = [encode(piece[0].encode()) for piece in regex.finditer(self.pattern, text)]
        return np.array(list(chain.from_iterable(ids)), np.uint32)

    def encode_documents(self, texts: pa.StringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Encode documents, and end each with the end of text. See `Tokenizer.encode_documents`."""
        if self.pattern == PATTERN:
            ids = self._encode_pieces(texts)
        elif pc.any(pc.match_substring(texts, END_OF_TEXT)).as_py():
            return super().encode_documents(texts)
        else:
            try:
                ids = self._encode_many(texts.to_pylist()).astype(self.dtype)
            except ValueError:  # see `encode`
                return super().encode_documents(texts)
        return ids, np.diff(np.flatnonzero(ids == self.end_of_text), prepend=-1)

    @cached_property
    def _encode_pieces(self) -> PieceEncoder:
        return PieceEncoder(self._encode_many, self.end_of_text, self.dtype)

    def _encode_many(self, texts: Sequence[str]) -> Ids:
        """Return the ids of texts, each ended by the end of text. No text may spell it out."""
        joined = END_OF_TEXT.join([*texts, ""])
        return self._encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT}, disallowed_special=())

    def with_special(self, tokens: Sequence[str]) -> BytePairTokenizer:
        """Return a tokenizer with more special tokens after the vocabulary."""
        return BytePairTokenizer(self.pattern, self.ranks, add_ids(self.special, tokens, self.vocabulary))

    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer in Hugging Face's format."""
        ranks = sorted(self.ranks.items(), key=lambda item: item[1])
        vocabulary = {_spell(token): i for token, i in ranks}
        return _fields(self.special, self.pattern, vocabulary, list(merges_of(vocabulary, vocabulary)))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BytePairTokenizer | None:
        """Return the tokenizer that `to_json` has written, or None if the fields are those of another program.

        The fields are compared with those that `to_json` writes, and the merges of some tokens, since all take long.
        """
        try:
            pattern = value["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        except (LookupError, TypeError):
            return None
        special = {token["content"]: token["id"] for token in value["added_tokens"]}
        vocabulary, merges = value["model"]["vocab"], value["model"]["merges"]
        some = set(islice(vocabulary, 0, None, 1 + len(vocabulary) // MERGES_COMPARED))
        if END_OF_TEXT not in special or value != _fields(special, pattern, vocabulary, merges):
            return None
        if [pair for pair in merges if "".join(pair) in some] != list(merges_of(some, vocabulary)):
            return None
        tokenizer = cls.from_spellings(pattern, vocabulary, special)
        return tokenizer if tokenizer.decode(tokenizer.encode(EVERY_KIND)) == EVERY_KIND else None

    @classmethod
    def from_spellings(cls, pattern: str, vocabulary: Mapping[str, int], special: dict[str, int]) -> BytePairTokenizer:
        """Return the tokenizer of a vocabulary that is written in printable letters, as GPT-2's file is."""
        plain = {spelling: i for spelling, i in vocabulary.items() if spelling not in special}
        ranks = {spelling.translate(BYTE_OF_LETTER).encode("latin-1"): i for spelling, i in plain.items()}
        if missing := {bytes([byte]) for byte in range(256)} - ranks.keys():
            raise ValueError(f"its vocabulary lacks {len(missing)} bytes")
        return cls(pattern, ranks, special)


def _fields(
    special: Mapping[str, int], pattern: str, vocabulary: Mapping[str, int], merges: list[list[str]]
) -> dict[str, Any]:
    """Return the fields of a `tokenizer.json`."""
    return hugging_face_json(
        special,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                split_at(pattern),
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        model={
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
    )


def merges_of(tokens: Collection[str], ids: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield each pair of tokens that forms one of these. tiktoken merges each such pair, so each is a merge."""
    for token in (token for token in ids if token in tokens):
        cuts = [cut for cut in range(1, len(token)) if token[:cut] in ids and token[cut:] in ids]
        if len(cuts) > 1:
            cuts.sort(key=lambda cut: (ids[token[:cut]], ids[token[cut:]]))
        yield from ([token[:cut], token[cut:]] for cut in cuts)


def _letters() -> dict[int, int]:
    """Return the printable letter that GPT-2's vocabulary files write for each byte, both as numbers."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {byte: 256 + i for i, byte in enumerate(others)}


LETTER_OF_BYTE = _letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}


def _spell(token: bytes) -> str:
    return token.decode("latin-1").translate(LETTER_OF_BYTE)


def unbroken_bytes(texts: pa.StringArray) -> int:
    """Return the bytes of long pieces in texts, such as DNA or Chinese sentences, each counted once.

    Such pieces hardly repeat, and learning holds each: a megabyte of them takes 55 MB of memory and 2 s.
    """
    pieces = divide(texts)
    long = pieces.filter(pc.greater_equal(pc.binary_length(pieces), LONG_PIECE)).unique()
    return int(pc.sum(pc.binary_length(long)).as_py() or 0)


def train_byte_pairs(texts: Iterable[str], vocabulary: int) -> BytePairTokenizer:
    """Learn a byte-pair vocabulary of this many tokens, including the end of text.

    Raises:
        InputError: the texts are too few for a vocabulary of this size.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    alphabet = sorted(map(chr, BYTE_OF_LETTER))
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    model = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    cut = pre_tokenizers.FixedLength(LONGEST_PIECE)
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = pre_tokenizers.Sequence([split, cut, spell])
    model.train_from_iterator(texts, trainer)
    learnt = model.get_vocab(with_added_tokens=False)
    end = len(learnt)
    if end + 1 < vocabulary:
        raise InputError(f"The corpus is enough for a vocabulary of {end + 1}, not of {vocabulary}; ask for less.")
    return BytePairTokenizer.from_spellings(PATTERN, learnt, {END_OF_TEXT: end})
