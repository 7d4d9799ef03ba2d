"""Other people's packages that have the names of ours and come first in `sys.path`."""

import importlib.util
import sys
from pathlib import Path

OURS = ("flows", "gpt", "pipelines")


def refuse_shadows() -> None:
    """Check that `flows`, `gpt` and `pipelines` are the packages beside this one.

    Raises:
        ImportError: another one comes first.
        SystemExit: the same, with the sentence on standard error, if this is the `tokenmill` command.
    """
    here = Path(__file__).resolve().parents[1]
    for name in OURS:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found == here / name / "__init__.py":
            continue
        sentence = (
            f"Python finds the package {name!r} of tokenmill in {found or 'no folder'}, not in {here / name}: rename "
            "that one, start Python with -P or from another folder, or take its folder out of PYTHONPATH."
        )
        if Path(sys.argv[0]).name == "tokenmill" or (sys.argv[0] == "-m" and "tokenmill" in sys.orig_argv):
            print(f"tokenmill: {sentence}", file=sys.stderr)
            sys.exit(2)
        raise ImportError(sentence)
