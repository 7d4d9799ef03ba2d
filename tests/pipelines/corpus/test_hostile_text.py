"""Text made to take the square of its length: each function that touches a text ends soon all the same.

A function that takes the square of one of these texts takes hours, so the limit of the child process is generous.
"""

import os
import subprocess
import sys
from pathlib import Path

import hostile_text
import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 300  # quiet, each function takes a few seconds for all texts


def read_all(name: str, length: int) -> None:
    command = [sys.executable, hostile_text.__file__, name, str(length)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", hostile_text.FUNCTIONS)
def test_time_grows_with_the_text_only(name: str) -> None:
    read_all(name, 40_000 if name in ("rules", "byte-pairs", "unicode") else 200_000)
