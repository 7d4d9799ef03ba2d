"""Notes in Markdown for MLflow's pages."""

import re
from collections.abc import Mapping, Sequence

from flows.outcome import Outcome, details, headline
from pipelines.store.dataset import Dataset
from pipelines.visible import in_markdown, visible


def step_note(dataset: Dataset, seconds: float) -> str:
    """Describe the result of a step in Markdown, for its page in MLflow."""
    manifest = dataset.manifest
    inputs = "".join(f"\n- {role}: `{ref}`" for role, ref in manifest.inputs.items())
    text = visible(details(dataset))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))  # longer than any in the text
    return (
        f"{fence}\n{text}\n{fence}\n\n`{dataset}` in `{dataset.address}`, {len(manifest.files)} files, "
        f"{manifest.bytes:,} bytes, built in {seconds:.1f} s.{' Made from' + inputs if inputs else ''}"
    )


def run_note(outcomes: Sequence[Outcome], links: Mapping[str, str]) -> str:
    """Describe the results of a run in Markdown, for its page in MLflow."""
    listed = " · ".join(f"[{title}]({link})" for title, link in links.items())
    rows = [f"| {o.step} | {in_markdown(o.summary or headline(o.dataset))} | {o.took} |" for o in outcomes]
    return "\n".join([listed, "", "| step | result | took |", "| --- | --- | --- |", *rows])
