"""Prefect artifacts: a text of somebody else's in a table is no Markdown."""

from types import SimpleNamespace

from httpx import HTTPStatusError, Request, Response

from flows.orchestration import artifacts
from flows.outcome import Outcome


def test_texts_in_tables_are_no_markdown(monkeypatch):
    made = {}
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda rows, key, description: made.update({key: rows}))
    for name in ("create_markdown_artifact", "create_link_artifact", "step_note"):
        monkeypatch.setattr(artifacts, name, lambda *_, **__: "")
    label = "<img src=x>[a](b)\x1b"
    manifest = SimpleNamespace(step="examples", name="x", statistics={label: 0.5, "positive": label})
    outcome = Outcome("promote", SimpleNamespace(manifest=manifest), 1.0, False, label)
    artifacts.publish_artifacts(outcome)
    artifacts.publish_chain("x", [outcome], "report.html")
    shown = r"&lt;img src=x>\[a\](b)\\x1b"
    assert made["examples-x-statistics"] == [
        {"statistic": shown, "value": 0.5},
        {"statistic": "positive", "value": shown},
    ]
    assert made["run-x"][0]["result"] == shown


def test_artifact_that_prefect_refuses_stops_no_run(monkeypatch, capsys):
    def refuse(*_, **__):
        raise HTTPStatusError("no such value", request=Request("POST", "http://p/api"), response=Response(422))

    for name in ("create_table_artifact", "create_markdown_artifact", "create_link_artifact"):
        monkeypatch.setattr(artifacts, name, refuse)
    artifacts.publish_chain("x", [], "report.html")
    assert capsys.readouterr().err == "! the closing table of x in Prefect is left out: no such value\n"
