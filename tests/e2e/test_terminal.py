"""A whole run on a terminal, of texts and labels that would command it; and the log of a run that fails."""

import json
import sqlite3
import sys
from contextlib import closing

import pytest
from terminal import RICH, on_terminal

from pipelines.visible import visible

COMMANDING = "\x1b]0;TITLE\x07\x1b[38;5;77;5mRED\x9b31mC1\u202eBIDI"
CONFIG = """
name = "commanding"
[ingest]
split = {{ validation = 0.2, test = 0.2 }}
[[ingest.sources]]
uri = "texts.jsonl"
name = {name}
[tokenize]
encoding = "characters"
[sample]
context = 32
[pretrain]
steps = 2
[pretrain.model]
size = "pico"
[finetune.sort]
task = "classification"
compare_from_scratch = false
[[finetune.sort.examples.sources]]
uri = "texts.jsonl"
label = "label"
[finetune.sort.training]
steps = 2
"""


@pytest.mark.slow
def test_run_sends_no_control_characters_to_terminal_or_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        {
            "text": f"{COMMANDING} {i} " + "words that somebody wrote " * (i % 5 + 1),
            "label": f"{'ab'[i % 2]}{COMMANDING}",
        }
        for i in range(120)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "run.toml").write_text(CONFIG.format(name=json.dumps(COMMANDING)))
    (tmp_path / f"{COMMANDING}.txt").write_text(" ")
    (tmp_path / "bad.toml").write_text(f'name = "bad"\n[[ingest.sources]]\nuri = {json.dumps(f"{COMMANDING}.txt")}\n')
    for command, ending in (("run", "tokenmill up"), ("ingest", "has no usable document")):
        config = "run.toml" if command == "run" else "bad.toml"
        arrived = on_terminal(sys.executable, "-m", "flows.cli", command, config, TOKENMILL_HOME=str(tmp_path))
        plain = RICH.sub("", arrived).replace("\r", "")
        assert ending in plain and r"\x1b]0;TITLE" in plain and visible(plain) == plain
        assert "\x1b[38;5;77;5m" not in arrived
    with closing(sqlite3.connect(tmp_path / ".tokenmill" / "prefect" / "prefect.db")) as database:
        query = (
            "SELECT message FROM log UNION SELECT message FROM flow_run_state UNION SELECT message FROM task_run_state"
        )
        messages = [message for (message,) in database.execute(query) if message]
    assert any(r"\x1b]0;TITLE" in message for message in messages)
    assert all(visible(message) == message for message in messages)
