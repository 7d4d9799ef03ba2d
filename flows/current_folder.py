"""Nothing in the current folder is code or a setting for us: the folder may come from somebody else.

Prefect would read settings from `prefect.toml`, `.env` and `pyproject.toml` there, and its logging settings can run any
command. Python would import modules from there. Settings in environment variables are used.
"""

import os
import sys
import tomllib
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

SOURCES = "prefect.settings.sources"
"""The module of Prefect that reads settings from files."""


def protect_process() -> None:
    """Import nothing from the current folder, in this process and in those that it starts."""
    os.environ["PYTHONSAFEPATH"] = "1"  # `python -m` puts no folder first in sys.path
    sys.path[:] = [entry for entry in sys.path if Path(entry).is_absolute()]


def protect_module() -> None:
    """Protect a process that `python -m` starts with a module of ours, before the module imports others."""
    if sys.argv[:1] != ["-m"]:
        return
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        del sys.path[0]
    protect_process()


class _SettingsLoader:
    """Finds Prefect's module of settings sources, and takes the current folder out of it once it is loaded."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != SOURCES or not (spec := PathFinder.find_spec(name, path)) or not spec.loader:
            return None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            _leave_files_aside(module)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def leave_settings_aside() -> None:
    """Let Prefect read no settings from the current folder, whenever it is imported."""
    if SOURCES in sys.modules:
        _leave_files_aside(sys.modules[SOURCES])
    elif _SettingsLoader not in sys.meta_path:
        sys.meta_path.insert(0, _SettingsLoader)


def _leave_files_aside(sources: Any) -> None:
    sources.TomlConfigSettingsSourceBase._read_files = lambda *_, **__: {}
    sources.DotEnvSettingsSource._read_env_files = lambda *_, **__: {}
    # Where `profiles.toml` is
    sources._get_profiles_path_from_toml = lambda *_: None
    sources.dotenv = SimpleNamespace(dotenv_values=lambda *_: {})


def warn_of_settings(folder: Path = Path()) -> None:
    """Print one sentence if a folder has settings of Prefect, which are left aside."""
    from flows.console import warn  # which worker processes need not import

    found = [name for name, is_one in SETTINGS_FILES.items() if is_one(_text(folder / name))]
    if found:
        names, has, is_, it = (
            (" and ".join(found), "have", "are", "them") if found[1:] else (found[0], "has", "is", "it")
        )
        warn(
            f"{names} in the current folder {has} settings of Prefect and {is_} left aside; "
            f"put what you need of {it} into environment variables."
        )


def _text(path: Path) -> str:
    """Return the start of a regular file, and nothing for anything else."""
    with suppress(OSError):
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                return file.read(1_000_000)
    return ""


def _has_prefect_table(pyproject: str) -> bool:
    try:
        return "prefect" in tomllib.loads(pyproject).get("tool", {})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


SETTINGS_FILES = {
    "prefect.toml": bool,
    ".env": lambda text: "prefect_" in text.casefold(),
    "pyproject.toml": _has_prefect_table,
}
"""The files, each with a function from its text to whether Prefect would take settings from it."""
