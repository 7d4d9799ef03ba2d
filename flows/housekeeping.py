"""Keeping a home tidy: a flow to run on a schedule, beside the work and never in its way."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.home import Home


@flow(name="housekeeping", persist_result=False)
def housekeeping(checkpoint_days: float = 30) -> list[str]:
    """Delete what dead runs left behind.

    Args:
        checkpoint_days: Checkpoints of an unfinished training are kept for so long after it last wrote one.
    """
    store = Home.from_environment().store
    swept = store.sweep(checkpoint_days)
    store.sweep_bucket()
    lines = "".join(f"- `{name}`\n" for name in swept)
    create_markdown_artifact(f"{len(swept)} leftover folders deleted.\n\n{lines}", key="housekeeping")
    return swept
