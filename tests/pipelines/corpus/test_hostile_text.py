"""Text made to take the square of its length: each function that touches a text ends soon all the same.

A function that takes the square of one of these texts takes hours, or as much memory as there is, so the limit of a
child process is generous.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 300  # on a machine with other work; quiet, each function takes a few seconds

TEXTS = """
import random

def texts(n):
    choices = random.Random(0).choices
    yield from (each * (n // len(each)) for each in (
        "a", " ", "\\n", "\\t ", "\\r\\n", "a ", "a\\n", "\\n \\n", "1.", "::", "a@", "a@b.", "[1]", "[", "&", "&amp;", "&#1;", "'s",
        "...", ".)", "!", "<", "\\x1b[0m", "\\x00", "\\u00c3\\u00a9", "\\u00e2\\u20ac", "\\u2026", "\\u0301", "\\u0323\\u0301",
        "\\u0f73", "\\u0344", "\\u1100\\u1161\\u11a8", "\\u4e2d", "\\u0e01\\u0e31", "\\u0130", "\\u00a0", "\\ufb01",
    ))
    yield from (a * (n // 8) + b * (n // 8) for a, b in (
        ("a\\u0301", "\\u0323"), ("&", "amp;"), ("&", "#1;"), ("\\x1b[", "0m"), (" ", "a"), ("\\n", "x"), ("(", ")"), ("a", "@b."),
    ))
    yield from ("&" + each * (n // len(each)) for each in ("amp;", "#38;", "#xFF06;"))
    for alphabet in ("ab", "acgt", " \\n\\t\\xa0", "01.:abcdef", "\\u00c3\\u00c2\\u00e2\\u20ac\\u2122\\x9d\\xa9a ", "\\u0301\\u0323\\u05b0"):
        yield "".join(choices(alphabet, k=n)) + "x"
"""

FUNCTIONS = {
    "normalise": "from pipelines.corpus.documents import normalise as f",
    **{
        f"clean {name}": f"from pipelines.corpus.cleaning import CLEANERS; f = CLEANERS[{name!r}]"
        for name in ("unicode", "whitespace", "boilerplate", "citations", "c4_lines", "redact")
    },
    "decontaminate": "from pipelines.corpus.contamination import Passages; f = lambda t: Passages([t], 13).shared(t)",
    "rules": """
import pyarrow as pa
from pipelines.corpus.quality import apply_rules, bad_words_of, rules_of
rules, bad = rules_of(("gopher", "c4")), bad_words_of(["bad", "two words"])
def f(t):
    row = {"text": t, "source": "s", "split": "train", "language": None, "n_bytes": len(t.encode())}
    schema = pa.schema([*((name, pa.string()) for name in ("text", "source", "split", "language")), ("n_bytes", "int64")])
    apply_rules(pa.RecordBatch.from_pylist([row], schema), rules, bad)
""",
    "signatures": """
import pyarrow as pa, pyarrow.parquet as pq, tempfile, pathlib
from pipelines.corpus.duplicates import write_signatures
folder = pathlib.Path(tempfile.mkdtemp())
def f(t):
    pq.write_table(pa.table({"text": [t]}), folder / "documents.parquet")
    write_signatures(folder / "documents.parquet")
""",
    "language": "import py3langid; f = lambda t: py3langid.classify(t[:1000])",
    "gpt2": "from pipelines.tokens.tokenizers import named_tokenizer; f = named_tokenizer('gpt2').encode",
    "gpt2 documents": """
import pyarrow as pa
from pipelines.tokens.tokenizers import named_tokenizer
f = lambda t: named_tokenizer("gpt2").encode_documents(pa.array([t]))
""",
    "words": "from pipelines.tokens.characters import count_words; f = lambda t: count_words([t]).encode(t)",
    "characters": "from pipelines.tokens.characters import count_characters; f = lambda t: count_characters([t]).encode(t)",
    "byte pairs": "from pipelines.tokens.byte_pairs import train_byte_pairs; f = lambda t: train_byte_pairs([t], 259)",
}


def run(code: str, n: int) -> None:
    loop = f"{TEXTS.strip()}\n{code.strip()}\nfor text in texts({n}):\n    f(text)\n"
    subprocess.run([sys.executable, "-c", loop], cwd=ROOT, check=True, timeout=SECONDS)


def test_normalising_ends_soon_whatever_is_in_the_text() -> None:
    run(FUNCTIONS["normalise"], 300_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_grows_with_the_text_only(name: str) -> None:
    run(FUNCTIONS[name], 200_000 if name in ("rules", "byte pairs", "clean unicode") else 1_000_000)
