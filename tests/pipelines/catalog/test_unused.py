"""The datasets that housekeeping may delete."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from gpt.config import Config
from pipelines.catalog.registry import ModelVersion
from pipelines.catalog.unused import unused
from pipelines.store.step import StepType

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=100)


class Content(Config):
    content: int


@pytest.fixture
def made(store):
    """made(kind, name, content, role=dataset) publishes a dataset, in a run of its own."""

    def make(kind, name, content, **inputs):
        type = StepType(f"make-{kind}", kind, 1, Content, lambda: {})
        step = type.using(name, Content(content=content), inputs)

        def run(out, scratch):
            (out / "content").write_text(str(content))
            return {}

        return store.build(step, run, built_by={"mlflow_run_id": f"run-{kind}-{name}-{content}"})

    return make


def chain(made, n):
    corpus = made("corpus", "text", n)
    tokens = made("tokens", "text", n, corpus=corpus)
    model = made("model", "gpt", n, tokens=tokens)
    return corpus, tokens, model, made("evaluation", "gpt", n, model=model, tokens=tokens)


def version(number, model, aliases=(), history=()):
    return ModelVersion("gpt", number, aliases, {"tokenmill.fingerprint": model.ref.fingerprint}, NOW, history)


def run(days_ago, **tags):
    named = {f"tokenmill.{key.replace('__', '.')}": value for key, value in tags.items()}
    return {"run_id": "r", "started_at": LATER - timedelta(days=days_ago), "tags": json.dumps(named)}


def left(store, versions=(), runs=(), keep_days=30, now=LATER):
    return unused(store.list(), versions, runs, now, keep_days)


def test_newest_of_each_name_and_its_origins_stay(made, store):
    first, second, third = (chain(made, n) for n in range(3))
    assert left(store) == [*first, *second]
    assert left(store, now=NOW) == [], "everything is recent"
    made("tokens", "other", 7, corpus=first[0])
    assert left(store) == [*first[1:], *second]
    assert third[0] not in left(store)


def test_models_in_use_stay_with_origins_and_newest_evaluation(made, store):
    chains = [chain(made, n) for n in range(5)]
    models = [each[2] for each in chains]
    history = (1, 2, 3)
    registry = [version(n + 1, model, history=history) for n, model in enumerate(models)]
    registry[2] = version(3, models[2], ("champion",), history)
    kept = [*chains[1], *chains[2], *chains[4]]
    assert left(store, registry) == [*chains[0], *chains[3]], "the champion, and the one before it"
    assert not set(map(str, kept)) & set(map(str, left(store, registry)))
    later = made("evaluation", "gpt-champion", 9, model=models[2], tokens=chains[4][1])
    gone = left(store, registry)
    assert chains[2][3] in gone and later not in gone and chains[2][0] not in gone


def test_datasets_of_recent_runs_stay(made, store):
    first, second, _ = (chain(made, n) for n in range(3))
    reused = run(5, reused__model__gpt=first[2].manifest.built["mlflow_run_id"])
    assert left(store, runs=[reused]) == [first[3], *second]
    assert left(store, runs=[run(5, fingerprint=second[1].ref.fingerprint)]) == [*first, *second[2:]]
    assert left(store, runs=[run(50, fingerprint=second[1].ref.fingerprint)]) == [*first, *second]


def test_origins_of_a_kept_evaluation_stay(made, store):
    first, _, third = (chain(made, n) for n in range(3))
    held_out = made("tokens", "held-out", 0, corpus=third[0])
    made("evaluation", "gpt", 7, model=first[2], tokens=held_out)
    made("evaluation", "gpt", 8, model=third[2], tokens=made("tokens", "held-out", 1, corpus=third[0]))
    assert held_out in left(store)
    assert held_out not in left(store, [version(1, first[2], ("champion",))])
