"""What a run needs is missed before the run starts, in one sentence that names the key."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import parse_config
from pipelines.errors import InputError
from pipelines.preflight import check_outside

SPLIT = {"validation": 0.1, "test": 0.1}
ASKED = {"task": "instruction", "examples": {"sources": [{"uri": "{there}", "response": "answer"}]}}
JUDGED = {"evaluate": {"judge": {"url": "http://localhost:1/v1", "model": "m", "key_variable": "NO_SUCH_KEY"}}}
SPAM = {"task": "classification", "examples": {"sources": [{"uri": "nowhere.csv", "label": "label"}]}}


@pytest.mark.parametrize(
    ("tables", "until", "says"),
    [
        (
            {"ingest": {"sources": [{"uri": "{there}"}, {"uri": "nowhere.txt"}]}},
            "ingest",
            r"^ingest\.sources\.1\.uri: ",
        ),
        ({"ingest": {"sources": [{"uri": "{there}"}], "bad_words": "nowhere.txt"}}, "ingest", r"^ingest\.bad_words: "),
        (
            {
                "corpora": {"a": {"sources": [{"uri": "{there}"}]}, "b": {"sources": [{"uri": "nowhere"}]}},
                "mix": {"weights": {"a": 1, "b": 1}},
            },
            "ingest",
            r"^corpora\.b\.sources\.0\.uri: nowhere does not exist",
        ),
        (
            {"tokenize": {"tokenizer": "nowhere.json"}},
            "tokenize",
            r"There is no tokenizer in .*nowhere\.json is missing",
        ),
        ({"finetune": {"spam": SPAM}}, "finetune", r"^finetune\.spam\.examples\.sources\.0\.uri: nowhere\.csv"),
        ({"tasks": {"verses": {"uri": "nowhere.jsonl"}}}, "evaluate", r"^tasks\.verses\.uri: "),
        (
            {"finetune": {"chat": ASKED | JUDGED}},
            "evaluate",
            r"^finetune\.chat\.evaluate\.judge\.key_variable: the environment has no variable NO_SUCH_KEY",
        ),
        ({"finetune": {"spam": SPAM}, "tasks": {"verses": {"uri": "nowhere.jsonl"}}}, "pretrain", None),
        ({"ingest": {"sources": [{"uri": "s3://bucket/that/is/asked/later"}]}}, "evaluate", None),
    ],
)
def test_missing_piece_is_named_before_the_run(tmp_path: Any, tables: dict[str, Any], until: str, says: str) -> None:
    (tmp_path / "there.jsonl").write_text("{}")

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return value.format(there=tmp_path / "there.jsonl") if isinstance(value, str) else value

    sources = {} if "corpora" in tables else {"ingest": {"sources": [{"uri": "{there}"}]}}
    config = parse_config(filled({"name": "x", **sources, **tables}), "x")
    if says is None:
        check_outside(config, until)
        return
    with pytest.raises(InputError, match=says) as caught:
        check_outside(config, until)
    assert "\n" not in str(caught.value)
