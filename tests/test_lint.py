"""The linter's exceptions: each call that is known to be dangerous says why it is not."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCEPTION = re.compile(r"# noqa: [A-Z0-9, ]*\bS\d+(?P<reason>.*)")


def test_exceptions_for_dangerous_calls_have_a_reason() -> None:
    bare = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for folder in ("gpt", "pipelines", "flows", "tokenmill", "tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for hit in EXCEPTION.finditer(path.read_text())
        if not re.fullmatch(r"(, [A-Z]+\d+)* - \S.*", hit["reason"])
    ]
    assert not bare, "write why after the rule, as in `# noqa: S603 - our own command`:\n" + "\n".join(bare)


def test_no_file_has_marks_of_a_merge() -> None:
    folders = (
        ROOT,
        *(ROOT / name for name in ("benchmarks", "configs", "docs", "flows", "gpt", "pipelines", "tokenmill", "tests")),
    )
    paths = {path for folder in folders for path in folder.glob("*" if folder == ROOT else "**/*") if path.is_file()}
    marked = [str(path) for path in sorted(paths) if re.search(rb"^(<{7}|>{7}) ", path.read_bytes(), re.MULTILINE)]
    assert not marked
