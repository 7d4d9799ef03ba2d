"""SQL over everything that is published, and MLflow's runs and registry."""

from typing import Any

__all__ = ["connect"]


def __getattr__(name: str) -> Any:
    if name == "connect":  # imported on first use, since DuckDB takes a while and much here does without it
        from pipelines.catalog.catalog import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
