"""A step that needs no input, for tests of the store."""

from pydantic import Field

from gpt.config import Config
from pipelines.store.step import StepType


class Example(Config):
    text: str = Field("text", description="What the file holds.")


EXAMPLE = StepType(
    "example", "things", 1, Example, run=lambda inputs, config, out, work: {}, packages=("pipelines.errors",)
)


def step(text="text", name="x", kind="things", inputs=None):
    return StepType("example", kind, 1, Example, EXAMPLE.run, packages=EXAMPLE.packages).using(
        name, Example(text=text), inputs
    )


def writes(text="text"):
    """A step's work: three files, one of them in a folder, and a checkpoint."""

    def run(out, scratch):
        (scratch / "checkpoint").write_text(text)
        (out / "one.txt").write_text(text)
        (out / "folder").mkdir()
        (out / "folder" / "two.txt").write_text(text * 2)
        (out / "empty").touch()
        return {"files": 3}

    return run


def below(store):
    return [path.relative_to(store.root) for path in store.root.rglob("*")]


def leftovers(store):
    """Return the files in the store that are no datasets and no locks."""
    found = [*store.root.glob(".staging/*"), *store.root.glob(".scratch/*")]
    return sorted(str(path.relative_to(store.root)) for path in found)
