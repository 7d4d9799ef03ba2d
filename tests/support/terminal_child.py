"""Run many commands on one terminal, in a home whose every text is hostile: `python terminal_child.py HOME`.

Before each command a line `== COMMAND` is printed.
"""

import io
import os
import sqlite3
import sys
import warnings
from pathlib import Path

HOSTILE = "\x1b]0;TITLE\x07\x1b[38;5;77;5mRED\x9b31mC1\u202eBIDI\r[bold]x"
FORGED = f"{HOSTILE}\nFORGED"  # a name that tries to begin a line of its own
LABEL = f"spam {FORGED}"
LABEL_CELL = f'"{LABEL}"'
DATE = f"2026-01-01T{HOSTILE}"

QUERY = "select text, source from documents order by all limit 1"
NAMED = f'select 1 as "{FORGED}"'
CASES = {
    "init": [
        ["init", "table.csv", "--output", "-"],
        ["init", "table.csv", "--output", f"{FORGED}.toml"],
        ["init", FORGED],
        ["init", "table.csv", "--output", f"{FORGED}/x.toml"],
    ],
    "run": [["run", "bad.toml"], ["run", FORGED], ["run", "x", FORGED], ["run", "ok.toml", "--tag", FORGED]],
    "ingest": [
        ["ingest", "value.toml"],
        ["ingest", "ok.toml", "--dry-run", "--set", f"ingest.sources.0.uri={FORGED}"],
        ["ingest", "ok.toml", "--set", f"ingest.sources.{FORGED}.uri=1"],
    ],
    "tokenize": [["tokenize", "bad.toml"]],
    "sample": [["sample", "bad.toml", "--set", f"{FORGED}=1"]],
    "pretrain": [["pretrain", "ok.toml", "--set", f"pretrain.{FORGED}=1"]],
    "finetune": [["finetune", "ok.toml", "--set", FORGED]],
    "evaluate": [
        ["evaluate", FORGED],
        ["evaluate", "--data", FORGED],
        ["evaluate", "--data", "table.csv", "--label", FORGED],
    ],
    "reevaluate": [["reevaluate", FORGED]],
    "trace": [["trace", "corpus/escapes"], ["trace", FORGED], ["trace", "DOC_ID"]],
    "report": [["report", FORGED], ["report", "corpus/escapes", "--output", f"{HOSTILE}.html"]],
    "sql": [
        ["sql", QUERY],
        ["sql", "--format", "csv", QUERY],
        ["sql", "--format", "json", QUERY],
        ["sql", NAMED],
        ["sql", "--format", "csv", NAMED],
        ["sql", f"select '{FORGED}' as"],
        ["sql", f"explain select 1 where 'x' = '{FORGED}' and random() > 0"],
        ["sql", "--file", FORGED],
        ["sql", "--format", FORGED, "select 1"],
    ],
    "generate": [
        ["generate", HOSTILE, "--model", "model/writer", "--max-new-tokens", "40"],
        ["generate", "--model", FORGED],
    ],
    "classify": [
        ["classify", HOSTILE, "--model", "model/sorter"],
        ["classify", HOSTILE, "--model", "model/sorter", "--all"],
        ["classify", HOSTILE, "--model", "model/sorter", "--json"],
        ["classify", "x", "--model", FORGED],
        ["classify", "--model", "model/sorter", "--file", "table.csv"],
        ["classify", "--model", "model/sorter", "--file", "table.csv", "--column", FORGED],
    ],
    "chat": [["chat", "--model", "model/helper", "--max-new-tokens", "20"], ["chat", "--model", FORGED]],
    "compare": [["compare", FORGED, FORGED], ["compare", "model/writer", "model/helper", "--html", f"{FORGED}.html"]],
    "models": [["models"], ["models", FORGED]],
    "promote": [["promote", f"{FORGED}/1"], ["promote", FORGED]],
    "rollback": [["rollback", FORGED]],
    "up": [["up", FORGED], ["up", "--host", FORGED], ["up", "--allow-host", FORGED]],
    "down": [["down", FORGED]],
    "status": [["status", FORGED]],
    "env": [["env", FORGED]],
    "schedule": [["schedule", FORGED]],
    "serve": [["serve", FORGED]],
    "doctor": [["doctor", FORGED]],
    "datasets ls": [["datasets", "ls"], ["datasets", "ls", FORGED]],
    "datasets show": [["datasets", "show", "corpus/escapes"], ["datasets", "show", FORGED]],
    "datasets verify": [["datasets", "verify"], ["datasets", "verify", FORGED]],
    "datasets gc": [["datasets", "gc", "--keep-days", FORGED], ["datasets", "gc", "--dry-run"]],
    "datasets diff": [
        ["datasets", "diff", "corpus/escapes", "corpus/other", "--html", f"{FORGED}.html"],
        ["datasets", "diff", FORGED, FORGED],
    ],
    "datasets export": [["datasets", "export", "x", "--dataset", FORGED]],
}
"""The command lines of each command. Each prints a hostile text."""


def make_home(home: Path) -> str:
    """Fill a home with hostile texts, and return the id of a document."""
    import json

    import torch

    from gpt.classifier import Classifier, Decision
    from gpt.config import Config, gpt_config
    from gpt.model import GPT
    from gpt.weights import save_classifier, save_model
    from pipelines.corpus.documents import Corpus
    from pipelines.corpus.ingest.config import IngestConfig
    from pipelines.corpus.ingest.ingest import INGEST
    from pipelines.corpus.parquet import read_rows
    from pipelines.models.language_model import LanguageModel, as_assistant
    from pipelines.store.step import StepContext, StepType
    from pipelines.store.store import Store
    from pipelines.tokens.characters import count_characters
    from pipelines.tokens.templates import save_template, template_named

    store = Store(home / "data")

    def ingest(name: str, text: str) -> str:
        folder = home / name
        folder.mkdir()
        (folder / f"{FORGED}.txt").write_text(text)
        config = IngestConfig(sources=[{"uri": str(folder), "name": FORGED}])
        step = INGEST.using(name, config)
        corpus = store.build(step, lambda out, work: INGEST.run({}, config, out, StepContext(work)))
        return next(row["doc_id"] for part in Corpus(corpus).parts for row in read_rows(part))

    plain, tokenizer = template_named("plain"), count_characters([HOSTILE, "abc :\n", template_named("plain").user])
    torch.manual_seed(0)

    def model(name: str, save: object) -> None:
        def run(out: Path, work: Path) -> dict[str, object]:
            save(GPT(gpt_config("pico", vocabulary=tokenizer.vocabulary, context=64)), out)
            tokenizer.save(out)
            return {"task": "language", HOSTILE: 7}

        store.build(StepType(f"make-{name}", "model", 1, Config, run).using(name, Config(), {}), run)

    def assistant(gpt: GPT, out: Path) -> None:
        save_model(as_assistant(LanguageModel(gpt, tokenizer), plain).gpt, out)
        save_template(plain, out / "template.json")

    doc_id = ingest("escapes", f"{HOSTILE} A text that somebody wrote.\n{FORGED}")
    ingest("other", f"Another text.\n{FORGED}")
    model("writer", save_model)
    model("sorter", lambda gpt, out: save_classifier(Classifier(gpt, 2), Decision(("ham", LABEL), LABEL, 0.0), out))
    model("helper", assistant)
    damaged = next((home / "data" / "corpus").glob("other-*"))
    (damaged / FORGED).write_text("")
    manifest = next((home / "data" / "model").glob("writer-*")) / "manifest.json"
    values = json.loads(manifest.read_text())
    values["built"]["at"] = DATE
    manifest.write_text(json.dumps(values))
    text = json.dumps(FORGED)
    numbers = [" ".join(str(n * factor) for factor in range(7919, 7929)) for n in range(90)]  # texts that differ
    rows = "".join(f'{LABEL_CELL if n % 2 else "ham"},"{HOSTILE} {words}"\n' for n, words in enumerate(numbers))
    (home / "table.csv").write_text(f'"class",text\n{rows}')
    (home / "ok.toml").write_text('name = "ok"\n[ingest]\n[[ingest.sources]]\nuri = "texts"\n')
    (home / "bad.toml").write_text(f'name = "ok"\n[ingest]\n[[ingest.sources]]\nuri = {text}\n{text} = 1\n')
    (home / "value.toml").write_text(f"name = {text}\n[ingest]\n")
    return doc_id


def make_registry(home: Path) -> None:
    """Write a registry with one version, whose tags are hostile."""
    (home / "mlruns").mkdir(parents=True)
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.executescript(
            "CREATE TABLE model_versions (name, version, creation_time, current_stage);"
            "CREATE TABLE model_version_tags (name, version, key, value);"
            "CREATE TABLE registered_model_aliases (name, version, alias);"
            "CREATE TABLE registered_model_tags (name, key, value);"
        )
        database.execute("INSERT INTO model_versions VALUES (?, 1, 0, 'None')", (FORGED,))
        tags = {"tokenmill.decision": FORGED, "tokenmill.decided_at": DATE, "tokenmill.why": FORGED}
        database.executemany(
            "INSERT INTO model_version_tags VALUES (?, 1, ?, ?)", [(FORGED, *tag) for tag in tags.items()]
        )
        database.execute("INSERT INTO registered_model_aliases VALUES (?, 1, ?)", (FORGED, FORGED))


def run_command(title: str, arguments: list[str], typed: str = "") -> None:
    """Run a command line, whatever its exit code."""
    from flows import cli

    print(f"\n== {title}", flush=True)
    sys.argv = ["tokenmill", *arguments]
    sys.stdin = io.StringIO(typed)
    try:
        cli.main()
    except SystemExit:
        sys.stdout.flush()


def print_elsewhere() -> None:
    """Print as those parts of the program do that need a server, and as other people's code does."""
    import logging
    from unittest.mock import MagicMock

    import duckdb
    from rich.progress import Progress

    from flows import console
    from flows.commands.closing import closing
    from flows.commands.sql_shell import Shell, show
    from flows.orchestration.progress import StepListener, step_bar
    from flows.outcome import Outcome

    print("\n== sentences")
    console.say(FORGED)
    console.warn(FORGED)
    print("\n== progress")
    with step_bar(f"ingest {FORGED}") as (bar, task):
        assert isinstance(bar, Progress)
        StepListener(bar, task, MagicMock(), MagicMock()).progress(1, 2, "documents", FORGED)
        bar.refresh()
        print(FORGED.replace("\n", ""))
        print(FORGED.replace("\n", ""), file=sys.stderr)
        warnings.warn(FORGED.replace("\n", ""), stacklevel=1)
    print("\n== closing table")
    dataset = MagicMock()
    dataset.manifest.step, dataset.manifest.statistics, dataset.folder = "x", {FORGED: 1}, Path(FORGED)
    outcomes = [Outcome("ingest", dataset, 1.0, False), Outcome("promote", dataset, 1.0, False, FORGED)]
    console.print_unbroken(closing(FORGED, outcomes, Path(), 1.0))
    print("\n== logs")
    logging.basicConfig(stream=sys.stderr)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger(HOSTILE).exception("%s", HOSTILE)
    print("\n== shell")
    shell = Shell(duckdb.connect(), Path())
    for line in (f"select '{FORGED}' as \"{FORGED}\";", f".nothing {HOSTILE}", f"select {HOSTILE};"):
        shell.answer(line)
    os.environ["PAGER"] = "cat"
    print("\n== pager", flush=True)
    show(f"{HOSTILE}\n" * 100)


def main() -> None:
    """Make the home, run the cases, and end with a traceback."""
    home = Path(sys.argv[1])
    home.mkdir()
    os.environ["TOKENMILL_HOME"] = str(home)
    os.chdir(home)
    doc_id = make_home(home)
    make_registry(home / "registry")
    for name, lines in CASES.items():
        for arguments in lines:
            os.environ["TOKENMILL_HOME"] = str(home / "registry" if arguments == ["models"] else home)
            arguments = [doc_id if each == "DOC_ID" else each for each in arguments]
            run_command(name, arguments, f"{HOSTILE}\n/{HOSTILE}\n/set {HOSTILE} 1\n" if name == "chat" else "")
    print_elsewhere()
    print("\n== traceback", flush=True)
    sys.argv = ["tokenmill", "--debug", "trace", HOSTILE]
    from flows import cli

    cli.main()


if __name__ == "__main__":
    main()
