"""The names of runs."""

from flows.label import Label, run_title, short_key
from pipelines.changes import flat
from pipelines.config import RunConfig

SOURCES = {"sources": [{"uri": "a.txt"}]}
SPAM = {"task": "classification", "examples": {"sources": [{"uri": "b.tsv", "label": "x"}]}}
PLAIN = RunConfig.model_validate({"name": "wiki", "ingest": SOURCES})


def config(**values) -> RunConfig:
    return RunConfig.model_validate({"name": "wiki", "ingest": SOURCES, **values})


def test_run_is_named_for_what_differs_from_the_run_before():
    new = config(pretrain={"learning_rate": 0.003, "model": {"size": "pico"}})
    assert run_title(new, Label(), flat(PLAIN)) == "wiki · learning_rate=0.003, size=pico"


def test_run_that_differs_in_nothing_has_the_name_of_its_config():
    assert run_title(PLAIN, Label(), flat(PLAIN)) == run_title(PLAIN, Label(), None) == "wiki"


def test_set_names_a_run_even_if_the_one_before_had_it():
    new, label = config(pretrain={"seed": 7}), Label(overrides=("pretrain.seed=7",))
    assert run_title(new, label, None) == run_title(new, label, flat(new)) == "wiki · seed=7"


def test_given_name_replaces_what_differs():
    assert run_title(PLAIN, Label(name="a\nbaseline"), None) == "a baseline"


def test_new_table_is_one_difference():
    new = config(finetune={"spam": SPAM})
    assert run_title(new, Label(), flat(PLAIN)) == "wiki · +finetune.spam"
    assert run_title(PLAIN, Label(), flat(new)) == "wiki · -finetune.spam"


def test_field_that_an_older_version_lacked_names_no_run():
    before = flat(PLAIN)
    del before["pretrain.clip"]
    assert run_title(PLAIN, Label(), before) == "wiki"


def test_long_title_is_cut_between_two_differences():
    names = ("learning_rate", "muon_learning_rate", "weight_decay", "beta1", "beta2")
    new = config(pretrain=dict.fromkeys(names, 0.125))
    assert run_title(new, Label(), flat(PLAIN)) == "wiki · learning_rate=0.125, muon_learning_rate=0.125, …"


def test_key_is_shortened_while_it_names_one_value():
    keys = flat(config(finetune={"spam": SPAM}))
    assert short_key("pretrain.steps", keys) == "steps"
    assert short_key("finetune.spam.training.steps", keys) == "training.steps"
    assert short_key("sample.context", keys) == "context"
