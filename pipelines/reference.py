"""The configuration reference, written from the configs themselves.

`python -m pipelines.reference > docs/configuration.md`
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.config import RunConfig

Schema = Mapping[str, Any]


INTRODUCTION = """# Configuration

A run is one TOML file. This page lists every key with its type and default. An unknown key is an error that names the
nearest valid one. Keys marked ° do not change the result, so they make no new version of it.

`--set section.key=value` overrides a key on the command line, its value written as in TOML. A number is a place in a
list, counted from 0: `--set ingest.sources.0.max_document=2000`.

A relative path in a config starts from the folder of the config, and a path after `--set` from the current folder. This
holds for sources, tasks, lists of words, tokenizers and templates. A path that is only in the current folder is read
from there with a warning, as in earlier versions.

This page is written from the code: `python -m pipelines.reference > docs/configuration.md`.
"""


TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "object": "table"}
"""How the page writes the types of JSON Schema."""


def reference() -> str:
    """Return the whole page, in Markdown."""
    top = RunConfig.model_json_schema()
    models: dict[str, Schema] = {top["title"]: top, **top["$defs"]}
    sections = [INTRODUCTION]
    shown: dict[str, str] = {}
    for path, name in _tables(top["title"], "", models, shown):
        title = f"`{path}`" if path else "At the top"
        paragraph = " ".join(models[name]["description"].split("\n\n")[0].split())
        content = f"{paragraph}\n\n{_fields(models[name])}" if shown[name] == path else f"As `{shown[name]}`.\n"
        sections.append(f"## {title}\n\n{content}")
    return "\n".join(sections)


def _tables(name: str, path: str, models: Mapping[str, Schema], shown: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield every table with its model; `shown` keeps where a model occurs first, and its tables are not repeated."""
    first = shown.setdefault(name, path)
    yield path, name
    if first != path:
        return
    prefix = f"{path.strip('[]')}." if path else ""
    for key, field in models[name]["properties"].items():
        for form, nested in _nested(field):
            yield from _tables(nested, form.format(f"{prefix}{key}"), models, shown)


def _nested(field: Schema, form: str = "[{}]") -> Iterator[tuple[str, str]]:
    """Yield the models in a field, and how TOML writes their table: one, one of a list, or one by a name."""
    if "$ref" in field:
        yield form, field["$ref"].rpartition("/")[2]
    for option in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _nested(option, form)
    for value in field.get("patternProperties", {}).values():
        yield from _nested(value, "[{}.NAME]")
    if "items" in field:
        yield from _nested(field["items"], "[[{}]]")


def _fields(model: Schema) -> str:
    rows = ["| key | type | default | |", "| --- | --- | --- | --- |"]
    for name, field in model["properties"].items():
        mark = " °" if field.get("fingerprint") is False else ""
        default = "*required*" if name in model.get("required", ()) else _default(field)
        description = " ".join(field.get("description", "").split())
        rows.append(f"| `{name}`{mark} | {_type(field)} | {default} | {description} |")
    return "\n".join(rows) + "\n"


def _type(field: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(option) for option in field["anyOf"] if option != {"type": "null"}))
    if values := field.get("enum", [field["const"]] if "const" in field else []):
        return ", ".join(f"`{value}`" for value in values)
    kind = field.get("type", "object")
    return f"list of {_type(field['items'])}" if kind == "array" else TYPES[kind]


def _default(field: Schema) -> str:
    default = field["default"]
    if default in (None, [], {}) or any(_nested(field)):
        return ""
    return f"`{json.dumps(default) if isinstance(default, bool | str) else repr(default)}`"


if __name__ == "__main__":
    print(reference(), end="")
