"""A forecast says what is reused, and how long and how big the rest becomes, as far as it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt.config import gpt_config
from pipelines import forecast as module
from pipelines.chain import chain
from pipelines.config import RunConfig, parse_config
from pipelines.forecast import StepForecast, forecast
from pipelines.starter.speed import parameters_of
from pipelines.store.store import Store

TRAINING = {"steps": 2, "batch_size": 2, "threads": 1}


class Run:
    """A small run whose steps can be made one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store, self.measured = folder, Store(folder / "data"), 0
        rows = [{"text": f"this is mill {i:03d}, which grinds", "label": "ab"[i % 2]} for i in range(200)]
        (folder / "mills.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def config(self, **training: Any) -> RunConfig:
        source = {"uri": str(self.folder / "mills.jsonl")}
        label = {"task": "classification", "examples": {"sources": [source | {"label": "label"}]}, "training": TRAINING}
        tables = {
            "ingest": {"sources": [source]},
            "tokenize": {"encoding": "characters"},
            "sample": {"context": 16},
            "pretrain": TRAINING | {"model": {"size": "pico"}} | training,
            "finetune": {"sort": label},
        }
        return parse_config({"name": "mill", **tables}, "mill")

    def make(self, until: str) -> None:
        """Publish what steps would make, as far as numbers go."""
        pico = parameters_of(gpt_config("pico", vocabulary=30, context=16))
        numbers = {"documents": 200, "documents_train": 180, "bytes_train": 5000, "bytes": 6000, "tokens": 6000}
        numbers |= {"vocabulary": 30, "bytes_per_token": 1, "context": 16, "steps": 2, "parameters": pico}

        def perform(step: Any) -> Any:
            return self.store.build(step, lambda out, scratch: numbers, built_by={"seconds": 3.0})

        chain(perform, self.config(), until)

    def forecast(self, until: str = "evaluate", rebuild: bool = False, **training: Any) -> dict[str, StepForecast]:
        steps = forecast(self.config(**training), until, self.store.list(), None, rebuild, self.measure)
        return {f"{each.step.type.name} {each.step.name}": each for each in steps}

    def measure(self) -> None:
        self.measured += 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(module, "seconds_per_token", lambda architecture, config, batch: 0.25)
    return Run(tmp_path)


def test_first_run_is_forecast_from_its_sources_and_this_machine(run: Run) -> None:
    steps = run.forecast()
    assert list(steps)[:6] == [
        *("ingest mill", "examples sort", "tokenize mill", "sample mill", "pretrain mill", "evaluate-language mill")
    ]
    assert list(steps)[-1] == "report mill" and "finetune-classifier mill-sort-from-scratch" in steps
    assert not any(each.dataset for each in steps.values())
    assert steps["pretrain mill"].seconds == 0.25 * 2 * 2 * 16 and run.measured == 1
    assert steps["ingest mill"].about == "1 file of 11.4 KB"
    tuned = steps["finetune-classifier mill-sort"]
    assert (tuned.seconds, tuned.at_most) == (0.25 * 2 * 2 * 16, True), "no lesson is longer than the context"
    assert not list(run.folder.glob("data/*")), "nothing is made"


def test_model_that_is_too_large_to_try_has_no_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seconds_per_token", lambda architecture, config, batch: None)
    step = run.forecast("pretrain")["pretrain mill"]
    assert step.seconds is None and "too large" in step.unknown and step.bytes


def test_later_run_is_forecast_from_earlier_versions(run: Run) -> None:
    run.make("pretrain")
    assert all(each.dataset for each in list(run.forecast("pretrain").values())[:-1]), "all but the report are reused"
    assert run.forecast("pretrain")["report mill"].dataset is None and run.measured == 0

    longer = run.forecast("pretrain", steps=20)["pretrain mill"]
    assert longer.dataset is None and longer.seconds == pytest.approx(10 * 3.0) and run.measured == 0
    run.forecast("pretrain", batch_size=4)
    assert run.measured == 1, "another batch takes another time"
    assert not any(each.dataset for each in run.forecast("pretrain", rebuild=True).values())
