"""The list of registered models."""

import io

import pytest
from rich.console import Console

from flows.commands.models import model_lines
from flows.tracking.registry import set_champion
from pipelines.errors import InputError


def test_reason_is_shown_without_markup(family):
    family.model(0.7)
    set_champion(family.client, family.name, 1, "see [/notes], it is [bold]")
    out = io.StringIO()
    for line in model_lines(family.home, family.name):
        Console(file=out, width=20).print(line, soft_wrap=True)
    head, version, why = out.getvalue().splitlines()
    assert head.split() == ["model", "alias", "metric", "made"] and version.startswith(f"{family.name}/1  champion")
    assert why.startswith("  promoted ") and why.endswith("see [/notes], it is [bold]")
    with pytest.raises(InputError, match=f"did you mean '{family.name}'"):
        list(model_lines(family.home, f"{family.name}s"))
