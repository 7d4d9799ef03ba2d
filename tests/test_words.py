"""Plain English, as far as a machine can check it: docs, docstrings and comments avoid a list of words."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BANNED = re.compile(
    r"\b(heeded|anew|lest|whence|of late|by now|by heart|"
    r"but for (the|a|an|what|those|some)|so many times|comes? to nothing|"
    r"(is|are|was|were|be|been) told|tells? (of|MLflow|Prefect)|"
    r"lies? (in|on|under|below|beside|behind|there|here)|"
    r"stands? (in|on|for|there|beside|behind|above|below|before|between)|"
    r"is of (this|the|these|those)|goes on (from|with)|going on (from|with)|taken up|turned away)\b",
    re.IGNORECASE,
)


def prose() -> Iterator[tuple[str, str]]:
    """Yield (place, text) for each paragraph of the docs, docstring and comment."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("mlruns/*.md")]:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        yield from ((path.name, paragraph) for paragraph in text.split("\n\n"))
    for path in ROOT.glob("docs/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        yield from ((path.name, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown")
    for folder in ("gpt", "pipelines", "flows", "tokenmill", "tests", "benchmarks"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            source = path.read_text()
            if BANNED.search(source):  # parsing all files would take seconds
                yield from ((str(path.relative_to(ROOT)), text) for text in comments(source))


def comments(source: str) -> Iterator[str]:
    """Yield the docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else []:
            if (
                isinstance(each, ast.Expr)
                and isinstance(each.value, ast.Constant)
                and isinstance(each.value.value, str)
            ):
                yield each.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_words_of_the_old_dialect_do_not_occur() -> None:
    found = [
        f"{place}: {hit[0]!r} in {' '.join(text[max(0, hit.start() - 50) : hit.end() + 50].split())!r}"
        for place, text in prose()
        if not place.endswith("test_words.py")
        for hit in BANNED.finditer(text)
    ]
    assert not found, "write it in plain English:\n" + "\n".join(found)
