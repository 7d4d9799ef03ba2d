"""Notes on MLflow's pages: a label or a reason in them makes no link, picture, tag or row."""

from types import SimpleNamespace

import pytest

from flows import outcome
from flows.label import Label
from flows.outcome import Outcome
from flows.tracking import notes
from flows.tracking.notes import about_run, ended_note, run_note, step_note

HOSTILE = "![x](http://e/x.png)<img src=x>|`a`\n```\n\x1b]0;T\x07"


@pytest.fixture
def dataset(monkeypatch):
    """A dataset whose numbers are about a hostile label."""
    for module in (outcome, notes):
        monkeypatch.setattr(module, "details", lambda dataset: HOSTILE)
    manifest = SimpleNamespace(step="x", statistics={HOSTILE.replace("/", ""): 1}, inputs={}, files={}, bytes=0)
    return SimpleNamespace(manifest=manifest, address="/home")


def test_fence_around_numbers_is_longer_than_any_in_them(dataset):
    lines = step_note(dataset, 1.0).splitlines()
    assert (
        lines[0] == lines[4] == "````"
        and lines[1:4] == HOSTILE.replace("\x1b", r"\x1b").replace("\x07", r"\x07").splitlines()
    )


def test_result_in_a_table_is_text_in_one_row(dataset):
    note = run_note("", [Outcome("x", dataset, 1.0, False), Outcome("promote", dataset, 1.0, False, HOSTILE)], {})
    rows = note.splitlines()[2:]
    assert len(rows) == 2 and all(r"x.png)&lt;img src=x>\|\`a\`\\n" in row for row in rows)
    assert "\x1b" not in note and "![" not in note


def test_description_says_what_a_person_said_and_what_differs():
    label = Label(note="A *longer* warmup.", overrides=("pretrain.steps=9",))
    note = about_run(label, ("wiki", "http://host/#/run"), {"pretrain.steps": ("5", "9"), "x": (None, HOSTILE)})
    assert note.startswith(
        "A *longer* warmup.\n\nSet: `pretrain.steps=9`\n\nDiffers from [wiki](http://host/#/run) in:"
    )
    rows = note.splitlines()[-2:]
    assert rows[0] == "| `pretrain.steps` | `5` | `9` |"
    assert rows[1].startswith("| `x` |  | `![x](http://e/x.png)<img src=x>\\|'a'\\n") and rows[1].count("`") == 4
    assert about_run(Label(), ("wi|ki", "http://host"), {}) == "The same config as [wi\\|ki](http://host)."


def test_reason_of_a_failure_comes_first_and_is_text():
    note = ended_note("loss is not finite at ![x](http://e)", "the rest", stopped=False)
    assert note == "**Failed:** loss is not finite at \\!\\[x\\](http://e)\n\nthe rest"
