"""Whatever happens to a file of a finished home, its readers name it: no signal, no wrong number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("seed", "seconds", "rounds"), [(1, 4, 1), pytest.param(2, 80, 1000, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_damaged_file_is_named_by_its_readers(tmp_path, seed, seconds, rounds):
    command = [sys.executable, "-m", "damaged_home", *map(str, (tmp_path, seed, seconds, rounds))]
    environment = os.environ | {"PYTHONPATH": f"{TREE}:{TREE / 'tests/support'}"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    *failures, summary = done.stdout.splitlines() or [done.stderr]
    assert not failures, failures
    assert summary.endswith(" processes, 0 failures"), done.stderr
