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
            f"Python imports {name!r} from {found or 'nowhere'} in place of tokenmill's own; rename it, start Python "
            "from another folder or with -P, or take its folder out of PYTHONPATH."
        )
        if "tokenmill" in (Path(sys.argv[0]).name, sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)]):
            print(f"tokenmill: {sentence}", file=sys.stderr)
            sys.exit(2)
        raise ImportError(sentence)
