"""Prefect artifacts of a step and of a flow run."""

from collections.abc import Sequence

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.outcome import Outcome, headline
from flows.tracking.notes import step_note


def publish_artifacts(outcome: Outcome) -> None:
    """Publish a step's Prefect artifacts: a Markdown summary and a table of its statistics."""
    manifest = outcome.dataset.manifest
    key = artifact_key(f"{manifest.step}-{manifest.name}")
    markdown = f"## {manifest.step} {manifest.name}\n\n{step_note(outcome.dataset, outcome.seconds)}"
    create_markdown_artifact(markdown, key=key, description=f"What {manifest.step} made")
    table = [{"statistic": k, "value": v} for k, v in manifest.statistics.items()]
    create_table_artifact(table, key=f"{key}-statistics", description=f"Statistics of {outcome.dataset}")


def publish_chain(name: str, outcomes: Sequence[Outcome], report: str) -> None:
    """Publish the closing table and a link to the report as Prefect artifacts of the flow run."""
    columns = ("step", "dataset", "result", "took")
    rows = [
        dict(zip(columns, (o.step, str(o.dataset), o.summary or headline(o.dataset), o.took), strict=True))
        for o in outcomes
    ]
    create_table_artifact(rows, key=artifact_key(f"run-{name}"), description=f"What {name} made")
    create_link_artifact(report, "The report", key=artifact_key(f"report-{name}"), description=f"What {name} made")


def artifact_key(text: str) -> str:
    """Return a text as a key of a Prefect artifact: lower-case letters, digits and dashes."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())
