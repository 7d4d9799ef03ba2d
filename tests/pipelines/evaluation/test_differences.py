"""What differs between models, as the manifests of everything that they were made from say."""

from gpt.config import Config
from pipelines.evaluation.differences import config_changes, facts, steps_of
from pipelines.store.step import StepType


class Settings(Config):
    learning_rate: float = 0.001
    sources: tuple[dict[str, str], ...] = ()


def make(store, kind, step, inputs, version=1, statistics=None, **config):
    type = StepType(step, kind, version, Settings, lambda: {})
    built = type.using("wiki", Settings(**config), inputs)
    return store.build(built, lambda out, scratch: statistics or {}, built_by={"seconds": 60.0, "device": "CPU"})


def pretrain(store, corpus, version=1, **config):
    sizes = {"parameters": 1000, "steps": 20, "tokens_trained": 5120}
    return make(store, "model", "pretrain", {"corpus": corpus}, version, sizes, **config)


def test_config_of_every_step_and_data_are_compared(store):
    one, other = (
        make(store, "corpus", "ingest", {}, statistics={"documents": n}, sources=[{"uri": "a.txt", "text_at": str(n)}])
        for n in (3, 4)
    )
    models = [pretrain(store, one), pretrain(store, other, learning_rate=0.003)]
    found = {each.name: each.values for each in config_changes(models, store.list())}
    assert found == {"ingest.sources.0.text_at": ("3", "4"), "pretrain.learning_rate": ("0.001", "0.003")}
    shown = {each.name: each.cells[1:] for each in facts(models, store.list())}
    assert shown["corpus"] == tuple(f"corpus@{each.ref.fingerprint[:12]}" for each in (one, other))
    assert shown["documents in it"] == ("3", "4")
    assert shown["parameters"] == ("1,000", "same") and shown["tokens trained on"] == ("5,120", "same")
    assert shown["all steps took"] == ("2 min", "same") and shown["device"] == ("CPU", "same")


def test_step_that_made_one_model_only_is_one_row(store):
    corpus = make(store, "corpus", "ingest", {})
    base = pretrain(store, corpus)
    tuned = make(store, "model", "finetune", {"model": base}, 2)
    assert [each.cells for each in config_changes([base, tuned], store.list())] == [("finetune", "", "v2")]
    again = make(store, "model", "pretrain", {"base": base, "corpus": corpus}, learning_rate=0.1)
    assert list(steps_of(again, store.list())) == ["ingest", "pretrain 2", "pretrain"]
    assert [each.cells for each in config_changes([base, pretrain(store, corpus, 2)], store.list())] == [
        ("pretrain", "v1", "v2")
    ]
