"""Tokenizers: text to token ids and back, in one type with three kinds.

Byte pairs are encoded by tiktoken, many documents at once through `pretokens`, whether the vocabulary is a published
one (`gpt2`, `cl100k_base`) or was trained on the corpus by Hugging Face's `tokenizers`. The two teaching kinds know
characters, or words, and have a token `<|unk|>` for what they have not seen.

Every kind is stored as `tokenizer.json` in Hugging Face's format, which their tools load too. Special tokens never
come out of a text: `<|endoftext|>` in a document is encoded letter by letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import orjson
import pyarrow.compute as pc
import tiktoken
from pydantic import Field, model_validator

from gpt.config import Config
from pipelines.corpus.documents import Corpus
from pipelines.errors import InputError
from pipelines.tokens.byte_pairs import BytePairTokenizer, named_tokenizer, train_byte_pairs
from pipelines.tokens.characters import CharacterTokenizer, WordTokenizer, count_characters, count_words
from pipelines.tokens.tokenizer import FILE, Tokenizer

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


LEARNT = ("bpe", "characters", "words")  # encodings that are made of the corpus


class TokenizeConfig(Config):
    """From a corpus to tokens."""

    encoding: str = Field(
        default="gpt2", description="A tiktoken encoding, or one made of the corpus: bpe, characters, words."
    )
    tokenizer: str | None = Field(
        default=None,
        json_schema_extra={"fingerprint": False},  # its content counts, as a source file's does
        description="A `tokenizer.json`, such as a published model's, in place of an encoding.",
    )
    vocabulary: int | None = Field(
        default=None, gt=256, description="Number of token ids, for an encoding made of the corpus."
    )
    training_bytes: int = Field(
        default=256 << 20, gt=0, description="Most training text that a vocabulary is learnt from."
    )
    special_tokens: tuple[str, ...] = Field(default=(), description="Special tokens to add behind the vocabulary.")
    shard_tokens: int = Field(default=1 << 26, gt=0, description="Tokens after which a shard is full.")

    @model_validator(mode="after")
    def _check_tokenizer(self) -> Self:
        if self.tokenizer and (self.vocabulary or self.encoding != "gpt2"):
            raise ValueError("tokenizer takes the place of encoding and vocabulary; leave those out")
        if self.encoding == "bpe" and self.vocabulary is None:
            raise ValueError("encoding is bpe, so vocabulary has to say how many tokens to learn")
        if self.encoding in LEARNT:
            return self
        published = tiktoken.list_encoding_names()  # which imports them all
        if self.encoding not in published:
            raise ValueError(f"there is no encoding {self.encoding!r}; known are {', '.join((*LEARNT, *published))}")
        if self.vocabulary is not None:
            raise ValueError(f"vocabulary cannot be set for {self.encoding!r}, whose vocabulary is published")
        return self


def make_tokenizer(config: TokenizeConfig, corpus: Corpus) -> Tokenizer:
    """The tokenizer that a config asks for; one that is made of the corpus sees its training split only."""
    tokenizer: Tokenizer
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(Path(config.tokenizer))
    elif config.encoding == "bpe":
        assert config.vocabulary is not None
        tokenizer = train_byte_pairs(_training_texts(config, corpus), config.vocabulary)
    elif config.encoding == "characters":
        tokenizer = count_characters(_training_texts(config, corpus), config.vocabulary)
    elif config.encoding == "words":
        tokenizer = count_words(_training_texts(config, corpus), config.vocabulary)
    else:
        tokenizer = named_tokenizer(config.encoding)
    return tokenizer.with_special(config.special_tokens) if config.special_tokens else tokenizer


def _training_texts(config: TokenizeConfig, corpus: Corpus) -> Iterator[str]:
    left = config.training_bytes
    for batch in corpus.batches(["split", "text", "n_bytes"]):
        train = batch.filter(pc.equal(batch["split"], "train"))
        for text, n_bytes in zip(train["text"].to_pylist(), train["n_bytes"].to_pylist(), strict=True):
            if n_bytes > left:
                return
            left -= n_bytes
            yield text
