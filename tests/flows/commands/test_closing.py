"""The closing table of a run."""

import io
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from flows.commands.closing import closing, differences, next_commands
from flows.outcome import Outcome
from flows.tracking.notes import run_note
from pipelines.config import parse_config


def test_earlier_decision_has_no_time_and_is_not_reused():
    summary = "spam/1 promoted. By hand: see [/notes]"
    before, now = (Outcome("promote", MagicMock(), 1.5, reused, summary) for reused in (True, False))
    assert [row.rpartition(" | ")[2] for row in run_note("", [before, now], {}).splitlines()[-2:]] == [" |", "1.5 s |"]
    out = io.StringIO()
    Console(file=out, width=120).print(closing("run", [before, now], Path(), 3))
    assert out.getvalue().startswith("run: 0 steps in 3.0 s")
    assert out.getvalue().count(summary) == 2 and "reused" not in out.getvalue() and "1.5 s" in out.getvalue()


def test_steps_that_occur_twice_are_told_apart():
    models = [SimpleNamespace(ref=SimpleNamespace(name=name), folder=Path(name)) for name in ("spam", "spam-new")]
    outcomes = [Outcome("finetune-classifier", each, 1.0, False) for each in models]
    with patch("flows.commands.closing.details", lambda dataset: "12 parameters"):
        tables = [printed(closing("run", some, Path(), 3)) for some in (outcomes, outcomes[:1])]
    assert "spam: 12 parameters" in tables[0] and "spam-new: 12 parameters" in tables[0]
    assert "spam: " not in tables[1] and "run: 1 step in" in tables[1]


def test_run_is_told_from_the_run_before():
    changed = {"pretrain.seed": ("0", "7"), "base": (None, "champion")}
    assert differences(["pretrain.seed=7"], "wiki", changed) == [
        *("Set: pretrain.seed=7", "Differs from the run before, wiki:", "  pretrain.seed: 0 → 7"),
        "  base: nothing → champion",
    ]
    assert differences([], "wiki", {}) == ["The same config as the run before, wiki."]
    many = {f"a{n}": ("0", "1") for n in range(20)}
    assert differences([], "wiki", many)[-1] == "  and 8 more" and differences([], "", {}) == []


@pytest.mark.parametrize(
    ("prompts", "texts", "command"),
    [
        (["Der Müller sagt"], [], 'generate "Der Müller sagt" --model mill'),
        ([""], ["-x starts so", 'He said "no" to', "The mill on the river"], 'generate "The mill on the" --model mill'),
        ([""], ["costs $5 and more"], "generate 'costs $5 and more' --model mill"),
        ([""], ["\x1b[31m red", "x" * 99], "generate --model mill"),
    ],
)
def test_suggested_prompt_fits_the_corpus(tmp_path, prompts, texts, command):
    documents = tmp_path / "documents"
    documents.mkdir()
    rows = [{"split": "train", "text": "Never this"}, *({"split": "test", "text": text} for text in texts)]
    pq.write_table(
        pa.Table.from_pylist(rows[1:] or rows[:0], pa.schema(dict.fromkeys(rows[0], pa.string()))), documents / "0"
    )
    corpus = SimpleNamespace(ref=SimpleNamespace(kind="corpus"), files=lambda pattern: [documents / "0"])
    manifest = SimpleNamespace(statistics={"task": "language"})
    model = SimpleNamespace(ref=SimpleNamespace(kind="model", name="mill"), manifest=manifest)
    config = parse_config(
        {"name": "mill", "ingest": {"sources": [{"uri": "x"}]}, "pretrain": {"prompts": prompts}}, "x"
    )
    lines = next_commands(config, [Outcome("x", each, 1.0, False) for each in (corpus, model)]).splitlines()
    assert lines[1] == f"  tokenmill {command}" and lines[-2] == "  tokenmill report mill --open"


def printed(table):
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue()
