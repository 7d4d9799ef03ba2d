"""Texts made to take the square of their length, and the functions that read them."""

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.cleaning import CLEANERS
from pipelines.corpus.contamination import Passages
from pipelines.corpus.documents import normalise
from pipelines.corpus.duplicates import write_signatures
from pipelines.corpus.quality import apply_rules, bad_words_of, rules_of
from pipelines.errors import InputError
from pipelines.tokens.byte_pairs import train_byte_pairs
from pipelines.tokens.characters import count_characters, count_words
from pipelines.tokens.tokenizers import named_tokenizer

# fmt: off
REPEATED = (
    "a", " ", "\n", "\t ", "\r\n", "a ", "a\n", "\n \n", "1.", "::", "a@", "a@b.", "[1]", "[", "&", "&amp;", "&#1;",
    "'s", "...", ".)", "!", "<", "\x1b[0m", "\x00", "Ã©", "â€", "…", "\u0301", "\u0323\u0301", "\u0f73", "\u0344",
    "\u1100\u1161\u11a8", "中", "\u0e01\u0e31", "İ", "\xa0", "ﬁ",
)
PAIRS = (
    ("a\u0301", "\u0323"), ("&", "amp;"), ("&", "#1;"), ("\x1b[", "0m"), (" ", "a"), ("\n", "x"), ("(", ")"),
    ("a", "@b."),
)
ALPHABETS = ("ab", "acgt", " \n\t\xa0", "01.:abcdef", "ÃÂâ€™\x9d©a ", "\u0301\u0323\u05b0")
# fmt: on


def texts(n: int) -> Iterator[str]:
    """Yield texts of about n characters."""
    yield from (each * (n // len(each)) for each in REPEATED)
    yield from (first * (n // 8) + second * (n // 8) for first, second in PAIRS)
    yield from ("&" + each * (n // len(each)) for each in ("amp;", "#38;", "#xFF06;"))
    yield from ("".join(random.Random(0).choices(each, k=n)) + "x" for each in ALPHABETS)


def rules(text: str) -> None:
    row = {"text": text, "source": "s", "split": "train", "language": None, "n_bytes": len(text.encode())}
    schema = pa.schema([*((name, pa.string()) for name in list(row)[:-1]), ("n_bytes", pa.int64())])
    apply_rules(pa.RecordBatch.from_pylist([row], schema), rules_of(("gopher", "c4")), bad_words_of(["bad", "two b"]))


def signatures(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.parquet"
        pq.write_table(pa.table({"text": [text]}), path)
        write_signatures(path)


def byte_pairs(text: str) -> None:
    with suppress(InputError):  # too little for a vocabulary
        train_byte_pairs([text], 300)


FUNCTIONS: dict[str, Callable[[str], Any]] = {
    "normalise": normalise,
    **CLEANERS,
    "decontaminate": lambda text: Passages([text], 13).shared(text),
    "rules": rules,
    "signatures": signatures,
    "gpt2": lambda text: named_tokenizer("gpt2").encode(text),
    "gpt2-documents": lambda text: named_tokenizer("gpt2").encode_documents(pa.array([text])),
    "words": lambda text: count_words([text]).encode(text),
    "characters": lambda text: count_characters([text]).encode(text),
    "byte-pairs": byte_pairs,
}


def main(name: str, length: str) -> None:
    for text in texts(int(length)):
        FUNCTIONS[name](text)


if __name__ == "__main__":
    main(*sys.argv[1:])
