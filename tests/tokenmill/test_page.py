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
def test_other_trainers_fit_as_shown(here, tmp_path, monkeypatch):
    for package in ("accelerate", "lightning", "transformers"):
        pytest.importorskip(package)
    data = here / "data"
    monkeypatch.chdir(tmp_path)  # where Lightning stores checkpoints
    (tmp_path / "data").symlink_to(data)
    run = [code for code in BLOCKS if "tokenmill.run(" in code]
    assert len(run_page(PYTHON, leave_out=run)) == len(BLOCKS) - len(run) == len(BLOCKS) - 1


def test_page_shows_every_function():
    called = {
        node.attr
        for code in BLOCKS
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tokenmill"
    }
    assert called == {*tokenmill.__all__}
