"""`docs/python.md` shows every function, and its blocks print what it shows."""

import ast

import pytest
from page import PYTHON, blocks, run_page

import tokenmill

BLOCKS = [code for code, _, _ in blocks(PYTHON)]


@pytest.mark.integration
def test_page_prints_what_it_shows(here):
    started = [code for code in BLOCKS if "tokenmill.run(" in code or "Trainer(" in code]  # tested where they are slow
    assert len(run_page(PYTHON, leave_out=started)) == len(BLOCKS) - len(started) == len(BLOCKS) - 3


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("trainer", ["lightning", "transformers"])
def test_other_trainers_fit_as_shown(here, tmp_path, monkeypatch, trainer):
    pytest.importorskip("accelerate" if trainer == "transformers" else trainer)
    data = here / "data"
    monkeypatch.chdir(tmp_path)  # where Lightning stores checkpoints
    (tmp_path / "data").symlink_to(data)
    others = [code for code in BLOCKS if "tokenmill.run(" in code or ("Trainer(" in code and trainer not in code)]
    assert len(run_page(PYTHON, leave_out=others)) == len(BLOCKS) - len(others) == len(BLOCKS) - 2


def test_page_shows_every_function():
    called = {
        node.attr
        for code in BLOCKS
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tokenmill"
    }
    assert called == {*tokenmill.__all__}
