"""The table of registered models."""

import io

from rich.console import Console

from flows.commands.models import models_table
from flows.tracking.registry import set_champion


def test_reason_is_shown_without_markup(family):
    family.model(0.7)
    set_champion(family.client, family.name, 1, "see [/notes], it is [bold]")
    out = io.StringIO()
    Console(file=out, width=200).print(models_table(family.home, family.name))
    assert "see [/notes], it is [bold]" in out.getvalue()
