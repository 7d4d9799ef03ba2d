"""Schedules: flows of `configs/schedules.toml` that run at their times or from Prefect's UI."""
