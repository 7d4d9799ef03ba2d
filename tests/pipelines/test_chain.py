"""The chain's order and inputs, with nothing carried out."""

import tomllib
from pathlib import Path
from types import SimpleNamespace

from pipelines.chain import STEPS, chain
from pipelines.config import load_config
from pipelines.tokens.templates import shipped

ROOT = Path(__file__).parents[2]


def performed(until, *overrides):
    """(step, name, roles) of every step."""
    steps = []

    def perform(type, name, config, inputs):
        steps.append((type.name, name, set(inputs)))
        return SimpleNamespace(ref=SimpleNamespace(name=name))

    chain(perform, load_config(ROOT / "configs" / "quickstart.toml", overrides), until)
    return steps


def test_tasks_are_put_to_the_pretrained_model_before_its_own_evaluation():
    task = "tasks.verses={uri='verses.jsonl', shots=2}"
    steps = performed("evaluate", task)
    at = steps.index(("evaluate-task", "quickstart-verses", {"model"}))
    assert steps[at - 1][0] == "pretrain" and steps[at + 1][:2] == ("evaluate-language", "quickstart")
    assert steps[at + 1][2] == {"model", "tokens", "corpus"}
    assert ("evaluate-assistant", "quickstart-assistant", {"model", "base", "examples"}) in steps
    assert not any(step.startswith("evaluate") for step, *_ in performed("finetune", task))


def test_shipped_templates_are_packaged():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert shipped() and all(any(path.match(pattern) for pattern in patterns) for path in shipped().values())


def test_every_published_kind_has_a_headline():
    assert all(type.name == name and type.headline for name, type in STEPS.items())
