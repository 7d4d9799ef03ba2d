"""How an instruction and its response are written for a model to read: templates as data.

A template turns (instruction, input) into a prompt; the response follows it and ends with the end-of-text token.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from gpt.config import Config
from pipelines.errors import InputError


class Template(Config):
    """Text around an instruction. `{instruction}` and `{input}` stand for what the user says."""

    with_input: str = Field(description="The prompt for an instruction that comes with an input.")
    without_input: str = Field(description="The prompt for an instruction alone.")
    turn: str = Field(description="The prompt for a further turn, behind the response before it.")

    def prompt(self, instruction: str, input: str = "") -> str:
        """The prompt for a single instruction."""
        # Replaced in one go, so that a user's own braces stay as they are.
        before, _, after = (self.with_input if input else self.without_input).partition("{instruction}")
        return before + instruction + after.replace("{input}", input)

    def follow_up(self, instruction: str) -> str:
        """The prompt for another instruction in the same conversation."""
        before, _, after = self.turn.partition("{instruction}")
        return before + instruction + after


TEMPLATES = {
    # Taori et al. 2023, Stanford Alpaca
    "alpaca": Template(
        with_input=(
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
        ),
        without_input=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{instruction}\n\n### Response:\n"
        ),
        turn="\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    ),
    # Alpaca's marks without its preamble, for small models with little room
    "plain": Template(
        with_input="### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        without_input="### Instruction:\n{instruction}\n\n### Response:\n",
        turn="\n\n### Instruction:\n{instruction}\n\n### Response:\n",
    ),
}


def template_named(name: str) -> Template:
    """
    Raises:
        InputError: there is no template of that name.
    """
    if name not in TEMPLATES:
        raise InputError(f"There is no template {name!r}; choose one of {', '.join(TEMPLATES)}.")
    return TEMPLATES[name]


def load_template(path: Path) -> Template:
    try:
        return Template.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is not a template: {error.errors()[0]['msg']}.") from None


def save_template(template: Template, path: Path) -> None:
    path.write_text(json.dumps(template.model_dump(), indent=1))
