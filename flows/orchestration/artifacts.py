"""Prefect artifacts of a step and of a flow run."""

from collections.abc import Iterable, Sequence
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.outcome import Outcome, headline
from flows.tracking.notes import step_note
from flows.tracking.refusals import going_without
from pipelines.visible import in_markdown


def publish_artifacts(outcome: Outcome) -> None:
    """Publish a step's Prefect artifacts: a Markdown summary and a table of its statistics."""
    manifest = outcome.dataset.manifest
    key = artifact_key(f"{manifest.step}-{manifest.name}")
    markdown = f"## {manifest.step} {manifest.name}\n\n{step_note(outcome.dataset, outcome.seconds)}"
    table = _rows(("statistic", "value"), manifest.statistics.items())
    with going_without(f"{outcome.dataset} in Prefect"):
        create_markdown_artifact(markdown, key=key, description=f"What {manifest.step} made")
        create_table_artifact(table, key=f"{key}-statistics", description=f"Statistics of {outcome.dataset}")


def publish_chain(name: str, outcomes: Sequence[Outcome], report: str) -> None:
    """Publish the closing table and a link to the report as Prefect artifacts of the flow run."""
    made = [(o.step, str(o.dataset), o.summary or headline(o.dataset), o.took) for o in outcomes]
    rows = _rows(("step", "dataset", "result", "took"), made)
    with going_without(f"the closing table of {name} in Prefect"):
        create_table_artifact(rows, key=artifact_key(f"run-{name}"), description=f"What {name} made")
        create_link_artifact(report, "The report", key=artifact_key(f"report-{name}"), description=f"What {name} made")


def _rows(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the rows of a table artifact, whose texts Prefect's page reads as Markdown."""
    return [
        {name: in_markdown(cell) if isinstance(cell, str) else cell for name, cell in zip(columns, row, strict=True)}
        for row in rows
    ]


def artifact_key(text: str) -> str:
    """Return a text as a key of a Prefect artifact: lower-case letters, digits and dashes."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())
