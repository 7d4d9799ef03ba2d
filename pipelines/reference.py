"""The configuration reference, written from the models themselves.

`python -m pipelines.reference > docs/configuration.md`
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipelines.config import RunConfig

INTRODUCTION = """# Configuration

A run is one TOML file. Every key is listed here with its type and default; a key that is not is an error that names
the nearest one. `--set section.key=value` overrides a key on the command line, its value written as in TOML. Keys
marked ° do not change what is made, and so do not make a new version of it.

This page is written from the code: `python -m pipelines.reference > docs/configuration.md`.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    sections = [INTRODUCTION]
    shown: dict[type[BaseModel], str] = {}
    for path, model in _tables(RunConfig, "", shown):
        title = f"`{path}`" if path else "At the top"
        content = (
            f"{_first_paragraph(model)}\n\n{_fields(model)}" if shown[model] == path else f"As `{shown[model]}`.\n"
        )
        sections.append(f"## {title}\n\n{content}")
    return "\n".join(sections)


def _tables(
    model: type[BaseModel], path: str, shown: dict[type[BaseModel], str]
) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table with its model; `shown` says where a model stands first, and what is in it is not told again."""
    first = shown.setdefault(model, path)
    yield path, model
    if first != path:
        return
    for name, info in model.model_fields.items():
        for form, nested in _nested(info.annotation):
            inner = path.strip("[]")
            yield from _tables(nested, form.format(f"{inner}.{name}" if inner else name), shown)


def _nested(annotation: Any, form: str = "[{}]") -> Iterator[tuple[str, type[BaseModel]]]:
    """Models within an annotation, and how TOML writes the table: one, one of a list, or one by a name."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield form, annotation
    elif origin is dict:
        yield from _nested(arguments[1], "[{}.NAME]")
    elif origin in (tuple, list):
        yield from _nested(arguments[0], "[[{}]]")
    elif origin is not Literal:
        for argument in arguments if origin is not Annotated else arguments[:1]:
            yield from _nested(argument, form)


def _fields(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | |", "| --- | --- | --- | --- |"]
    for name, info in model.model_fields.items():
        extra = info.json_schema_extra
        mark = " °" if isinstance(extra, dict) and extra.get("fingerprint") is False else ""
        rows.append(f"| `{name}`{mark} | {_type(info.annotation)} | {_default(info)} | {info.description or ''} |")
    return "\n".join(rows) + "\n"


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(a) for a in arguments if a is not type(None)))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin is dict or annotation is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(annotation, str(annotation))


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "*required*"
    if default is None or isinstance(default, BaseModel) or default in ((), {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    if isinstance(default, str):
        return f"`{json.dumps(default)}`"
    return f"`{default!r}`"


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


if __name__ == "__main__":
    print(reference(), end="")
