"""Writes the deployments of the shipped schedules for work pools: `python -m flows.schedules`."""

from pathlib import Path

from flows.schedules.deployments import load_schedules, prefect_yaml

source = Path("configs/schedules.toml")
Path("prefect.yaml").write_text(prefect_yaml(load_schedules(source), source), encoding="utf-8")
