"""A step's fingerprint: equal for what is equal, different for what can change a byte, blind to everything else."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, create_model

from gpt.config import Config
from pipelines.errors import InputError
from pipelines.store.manifest import Ref, SourceFile
from pipelines.store.step import (
    ConfigWithNames,
    Listener,
    StepContext,
    StepType,
    _plain_code,
    canonical_json,
    code_digest,
    fingerprinted,
    map_in_turn,
)

pytestmark = pytest.mark.integration


class Inner(Config):
    rate: float = Field(0.5, description="Matters.")
    workers: int = Field(1, description="Does not.", json_schema_extra={"fingerprint": False})


class Example(Config):
    text: str = Field("", description="Matters.")
    inner: Inner = Field(Inner(), description="Matters in part.")
    several: tuple[Inner, ...] = Field((), description="Each matters in part.")
    named: dict[str, Inner] = Field({}, description="Each matters in part.")
    by_number: dict[int, float] = Field({}, description="Keys that JSON makes words of.")
    words: frozenset[str] = Field(frozenset(), description="In no order.")
    place: Path = Field(Path(), description="Does not matter.", json_schema_extra={"fingerprint": False})


EXAMPLE = StepType("example", "things", 1, Example, run=lambda inputs, config, out, work: {})
INPUT = SimpleNamespace(ref=Ref(kind="corpus", name="bible", fingerprint="ab" * 32, digest="cd" * 32))
SOURCE = SourceFile(name="a.txt", bytes=1, sha256="ef" * 32)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
inners = st.builds(Inner, rate=st.floats(0, 1), workers=st.integers(1, 9))
examples = st.builds(
    Example,
    text=st.text(),
    inner=inners,
    several=st.lists(inners, max_size=3).map(tuple),
    named=st.dictionaries(st.text(max_size=3), inners, max_size=3),
    by_number=st.dictionaries(st.integers(), st.floats(0, 1), max_size=3),
    words=st.frozensets(st.text(max_size=3), max_size=4),
    place=st.sampled_from([Path(), Path("/elsewhere")]),
)


@given(json_values)
def test_canonical_json_spells_equal_values_one_way(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert canonical_json(_with_keys_turned(value)) == text


def _with_keys_turned(value):
    if isinstance(value, dict):
        return {key: _with_keys_turned(inner) for key, inner in reversed(value.items())}
    if isinstance(value, list):
        return [_with_keys_turned(inner) for inner in value]
    return value


@given(examples)
def test_config_read_back_has_the_same_fingerprint(config):
    again = Example.model_validate_json(config.model_dump_json())
    assert EXAMPLE.using("x", again).fingerprint == EXAMPLE.using("x", config).fingerprint


@given(examples, examples)
def test_fingerprints_are_equal_exactly_for_equal_outputs(one, other):
    same = fingerprinted(one) == fingerprinted(other)
    assert (EXAMPLE.using("x", one).fingerprint == EXAMPLE.using("x", other).fingerprint) == same
    stripped = [_without_what_does_not_matter(config.model_dump(mode="json")) for config in (one, other)]
    assert same == (stripped[0] == stripped[1])


def _without_what_does_not_matter(value):
    if isinstance(value, dict):
        inner = {k: _without_what_does_not_matter(v) for k, v in value.items() if k not in ("workers", "place")}
        return {k: sorted(v) if k == "words" else v for k, v in inner.items()}
    if isinstance(value, list):
        return [_without_what_does_not_matter(inner) for inner in value]
    return value


def test_everything_that_changes_a_byte_changes_the_fingerprint():
    def fingerprint(type=EXAMPLE, name="x", config=None, inputs=None, sources=(SOURCE,)):
        type = StepType(type.name, type.kind, type.version, Example, type.run, sources=lambda config: sources)
        return type.using(name, config or Example(), inputs).fingerprint

    def raised(version=1, name="example"):
        return StepType(name, "things", version, Example, EXAMPLE.run)

    def changed(model, **values):
        return model.model_copy(update=values)

    def with_ref(**values):
        return SimpleNamespace(ref=changed(INPUT.ref, **values))

    variants = {
        "as it is": fingerprint(),
        "version": fingerprint(raised(version=2)),
        "step": fingerprint(raised(name="other")),
        "name": fingerprint(name="y"),
        "config": fingerprint(config=Example(text="a")),
        "config within": fingerprint(config=Example(inner=Inner(rate=0.25))),
        "config in a list": fingerprint(config=Example(several=(Inner(),))),
        "config in a list, changed": fingerprint(config=Example(several=(Inner(rate=0.25),))),
        "input": fingerprint(inputs={"corpus": INPUT}),
        "input's role": fingerprint(inputs={"tokens": INPUT}),
        "input's fingerprint": fingerprint(inputs={"corpus": with_ref(fingerprint="11" * 32)}),
        "input's content": fingerprint(inputs={"corpus": with_ref(digest="11" * 32)}),
        "source's content": fingerprint(sources=(changed(SOURCE, sha256="11" * 32),)),
        "source's name": fingerprint(sources=(changed(SOURCE, name="b.txt"),)),
        "no source": fingerprint(sources=()),
        "order of sources": fingerprint(sources=(SOURCE, changed(SOURCE, name="b.txt"))),
        "other order": fingerprint(sources=(changed(SOURCE, name="b.txt"), SOURCE)),
    }
    for (one, first), (other, second) in itertools.combinations(variants.items(), 2):
        assert first != second, f"{one} and {other}"
    other = with_ref(name="other")
    assert fingerprint(inputs={"a": INPUT, "b": other}) == fingerprint(inputs={"b": other, "a": INPUT})


def test_places_and_worker_counts_keep_the_fingerprint():
    here = Example(inner=Inner(workers=1), several=(Inner(),), named={"a": Inner()}, place=Path("/here"))
    there = Example(
        inner=Inner(workers=8), several=(Inner(workers=2),), named={"a": Inner(workers=3)}, place=Path("/there")
    )
    assert EXAMPLE.using("x", here).fingerprint == EXAMPLE.using("x", there).fingerprint


@given(json_values, json_values)
def test_later_field_enters_only_when_it_differs_from_its_default(default, value):
    before = create_model("Before", __base__=Config, text=(str, "a"))
    added = Field(default, json_schema_extra={"since": "0.2.0"})
    after = create_model("After", __base__=before, added=(Any, added))
    inside = create_model("Inside", __base__=Config, inner=(dict[str, after], {}))
    assert fingerprinted(after()) == fingerprinted(before())
    assert fingerprinted(inside(inner={"x": after()})) == {"inner": {"x": fingerprinted(before())}}
    kept = {} if value == default else {"added": value}
    assert fingerprinted(after(added=value)) == {"text": "a", **kept}


def test_names_that_mean_something_else_enter_the_fingerprint():
    class Named(ConfigWithNames):
        size: str = "small"

        def redefined(self):
            return {"layers": 3} if self.size == "large" else {}

    assert fingerprinted(Named()) == {"size": "small"}
    assert fingerprinted(Named(size="large")) == {"size": "large", "redefined": {"layers": 3}}


def test_fingerprint_is_the_same_in_every_process():
    """Hash seeds differ from process to process; sets come out in another order."""
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('example', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['example'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(module.EXAMPLE.using('x', module.Example(words=frozenset('abcdefgh'))).fingerprint)\n"
    )
    root = str(Path(__file__).parents[3])
    prints = {
        subprocess.run(
            [sys.executable, "-c", code, __file__],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert prints == {EXAMPLE.using("x", Example(words=frozenset("abcdefgh"))).fingerprint + "\n"}


@pytest.mark.parametrize("rate", [math.nan, math.inf])
def test_config_with_infinite_number_is_rejected(rate):
    with pytest.raises(InputError, match=r"example x: .*finite"):
        _ = EXAMPLE.using("x", Example(inner=Inner(rate=rate))).fingerprint


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True))
def test_name_stays_in_its_folder(name):
    folder = Path(EXAMPLE.using(name, Example()).key)
    assert folder.parts[0] == "things" and len(folder.parts) == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "a b", "-a", "a\n", "a" * 64, "é"])
def test_invalid_dataset_name_is_rejected(name):
    with pytest.raises(InputError, match="cannot name a dataset"):
        EXAMPLE.using(name, Example())


def test_code_digest_ignores_comments_docstrings_and_layout(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def digest(code):
        (tmp_path / "some_step.py").write_text(code)
        forget()
        return code_digest(("some_step",))

    plain = digest("def f(a):\n    return a + 1\n\nclass C:\n    x = 'text'\n")
    assert plain == digest(
        '"""A docstring."""\n# a comment\ndef f( a ):\n    """Another."""\n    # more\n\n'
        "    return (a +\n        1)  # yes\n"
        'class C:\n    """And another."""\n    x = "text"\n'
    )
    assert plain != digest("def f(a):\n    return a + 2\n\nclass C:\n    x = 'text'\n")
    assert plain != digest("def f(a):\n    return a + 1\n\nclass C:\n    x = 'other text'\n")
    assert digest("def f():\n    'only a docstring'\n") == digest("def f():\n    pass\n")
    assert digest("async def f():\n    'a'\n    await g()\n") == digest("async def f():\n    await g()\n")


@pytest.fixture(autouse=True)
def forget_code_digests():
    yield
    forget()


def forget():
    code_digest.cache_clear()
    _plain_code.cache_clear()


def test_code_digest_covers_all_modules_in_any_order():
    one = code_digest(("pipelines.errors", "pipelines.store.step"))
    assert one == code_digest(("pipelines.store.step", "pipelines.errors"))
    assert one != code_digest(("pipelines.store.step",))


def test_plain_listener_accepts_everything(tmp_path):
    work = StepContext(tmp_path)
    report = work.listener
    assert isinstance(report, Listener)
    assert report.progress(1, 2, "documents") is None
    assert report.metrics(1, {"train/loss": 1.0}) is None
    assert report.text("sample", "text") is None
    assert report.warn("A sentence.") is None
    assert work.should_stop() is False
    assert work.map(str, [2, 1]) == map_in_turn(str, [2, 1]) == ["2", "1"]
