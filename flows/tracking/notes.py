"""Notes in Markdown for MLflow's pages."""

import re
from collections.abc import Mapping, Sequence

from flows.label import Label
from flows.outcome import Outcome, details, headline
from flows.tracking.names import MAX_TAG
from pipelines.addresses import without_secrets
from pipelines.changes import Change
from pipelines.store.dataset import Dataset
from pipelines.visible import in_markdown, one_line, shorten, visible


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


def run_note(about: str, outcomes: Sequence[Outcome], links: Mapping[str, str]) -> str:
    """Describe a run in Markdown, for its page in MLflow.

    Args:
        about: what `about_run` returns.
        outcomes: the results so far.
        links: addresses by title.
    """
    listed = " · ".join(f"[{title}]({link})" for title, link in links.items())
    rows = [f"| {o.step} | {in_markdown(o.summary or headline(o.dataset))} | {o.took} |" for o in outcomes]
    table = "\n".join(["| step | result | took |", "| --- | --- | --- |", *rows]) if rows else ""
    return "\n\n".join(filter(None, [listed, about, table]))


def about_run(label: Label, before: tuple[str, str] | None, changed: Mapping[str, Change]) -> str:
    """Describe in Markdown what tells a run from others.

    Args:
        label: what a person says about it.
        before: name and address of the run before; None if this is the first one.
        changed: what differs from it.
    """
    parts = [visible(label.note)] if label.note else []
    if label.overrides:
        parts.append("Set: " + ", ".join(map(_code, label.overrides)))
    if before:
        link = f"[{in_markdown(before[0])}]({before[1]})"
        rows = [
            f"| {_code(key)} | {'' if old is None else _code(old)} | {'' if new is None else _code(new)} |"
            for key, (old, new) in changed.items()
        ]
        head = f"Differs from {link} in:\n\n| key | there | here |\n| --- | --- | --- |\n"
        parts.append(head + "\n".join(rows) if rows else f"The same config as {link}.")
    return without_secrets("\n\n".join(parts))


def ended_note(reason: str, note: str, stopped: bool) -> str:
    """Return the description of a run that did not end well: the reason, then the rest of its description."""
    head = f"**{'Stopped' if stopped else 'Failed'}:** {in_markdown(reason[:REASON])}"
    return f"{head}\n\n{note}"[:MAX_TAG]


LONGEST, REASON = 120, 2000
"""Characters of a value and of a reason."""


def _code(text: str) -> str:
    """Return a text as code in a table's cell, cut off where it is long."""
    text = one_line(text).replace("`", "'").replace("|", r"\|")
    return f"`{shorten(text, LONGEST)}`"
