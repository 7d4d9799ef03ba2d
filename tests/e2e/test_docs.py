"""The commands in the README and the docs work on the results of the small chain."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipelines.reference import reference
from pipelines.store.store import Store

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {
    "configs/quickstart.toml": "tiny.toml",
    "quickstart-assistant": "tiny-answer",
    "quickstart-spam": "tiny-sort",
    "quickstart": "tiny",
    "scripture-and-reference": "topics",
    "path/to/kjv.jsonl": "texts/assert.txt",
    "kjv.jsonl": "assert.txt",
    "init letters": "init texts",
    "letters.toml": "texts.toml",
}
ELSEWHERE = {  # commands that other files test
    "up": "tests/flows/servers/test_stack.py",
    "down": "tests/flows/servers/test_stack.py",
    "status": "tests/flows/servers/test_stack.py",
    "schedule": "tests/flows/test_schedules.py",
    "run": "tests/e2e/test_chain.py",
    "evaluate": "tests/e2e/test_new_data.py",
    "compare": "tests/e2e/test_promotion.py",
    "promote": "tests/e2e/test_promotion.py",
    "rollback": "tests/e2e/test_promotion.py",
    "reevaluate": "tests/e2e/test_promotion.py",
    "doctor": "it fails where the packages of the quick start are not installed",
}


def commands() -> list[tuple[str, str]]:
    """Return (page, command) for each line of a code block that begins with `tokenmill`."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            lines = [line.removeprefix("$ ") for line in block.splitlines()]
            found += [(page.name, line) for line in lines if line.startswith("tokenmill ")]
    return found


def test_configuration_page_equals_the_generated_reference():
    assert {page for page, _ in commands()} >= {"README.md", "datasets.md", "sql.md", "lineage.md"}
    assert (ROOT / "docs" / "configuration.md").read_text() == reference()


@pytest.mark.parametrize(("page", "command"), commands())
def test_shown_command_works(page, command, finished, monkeypatch, tmp_path):
    place, _ = finished
    arguments = shlex.split(translate(command, Store(place.home / "data")), comments=True)[1:]
    if arguments[0] in ELSEWHERE:
        assert arguments[0] in {command.name or command.callback.__name__ for command in app.registered_commands}
        return
    monkeypatch.setenv("TOKENMILL_HOME", str(place.home))
    monkeypatch.chdir(tmp_path)
    for name in ("texts", "tiny.toml"):
        (tmp_path / name).symlink_to(place.home / name)
    (tmp_path / "question.sql").write_text("select 1")
    (tmp_path / "messages.txt").write_text("x = f(1)\nhello\n")
    redirected = next((at for at, word in enumerate(arguments) if word in ("<", ">")), None)
    done = CliRunner().invoke(app, arguments[:redirected], input="select 1;", catch_exceptions=False)
    assert done.exit_code == 0, done.output


def translate(command: str, store: Store) -> str:
    """Replace names of the quick start by names of the small chain."""
    for name, here in NAMES.items():
        command = command.replace(name, here)
    command = re.sub(r"([\w/-]+)@[0-9a-f]{8,}", lambda m: f"{m[1]}@{store.open(m[1]).ref.fingerprint[:12]}", command)
    import pyarrow.parquet as pq

    (part, *_) = store.open("corpus/topics").path.glob("documents/*.parquet")
    document = pq.read_table(part, columns=["doc_id"])["doc_id"][0].as_py()
    return re.sub(r"(?<= )[0-9a-f]{16,}(?= |$)", document, command)
