"""A run of several corpora: what a person writes, what becomes of it, and what is said of it."""

import json

import pytest

from flows.outcome import headline
from pipelines.chain import chain
from pipelines.config import load_config
from pipelines.errors import InputError
from pipelines.store import lineage
from pipelines.store.step import StepContext
from pipelines.store.store import Store

CONFIG = """
name = "mixed"
[corpora.books]
split = {{ validation = 0.1, test = 0.1 }}
sources = [{{ uri = "{folder}/books.jsonl" }}]
[corpora.letters]
split = {{ validation = 0.1, test = 0.1 }}
sources = [{{ uri = "{folder}/letters.jsonl" }}]
[mix]
weights = {{ books = 3, letters = 1 }}
[tokenize]
encoding = "characters"
[sample]
context = 16
"""


@pytest.fixture
def config_file(tmp_path):
    for name, n in (("books", 300), ("letters", 200)):
        lines = (json.dumps({"text": f"{name} {i:03d} is what this is"}) for i in range(n))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    path = tmp_path / "mixed.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def test_a_mixture_goes_through_the_chain_and_says_what_was_drawn(config_file, tmp_path):
    store, done = Store(tmp_path / "data"), []

    def perform(type_, name, config, inputs):
        step = type_.using(name, config, {role: dataset.ref for role, dataset in inputs.items()})
        done.append(store.build(step, lambda out, scratch: type_.run(inputs, config, out, StepContext(scratch))))
        return done[-1]

    chain(perform, load_config(config_file), until="sample")
    assert [str(dataset).partition("@")[0] for dataset in done] == [
        "corpus/books",
        "corpus/letters",
        "corpus/mixed",
        "tokens/mixed",
        "samples/mixed",
    ]
    books, letters, mixed, tokens, samples = done
    assert mixed.manifest.inputs == {"books": books.ref, "letters": letters.ref}
    assert tokens.manifest.statistics["documents"] == mixed.manifest.statistics["documents"]
    statistics = mixed.manifest.statistics
    assert statistics["share_of_books"] == pytest.approx(0.75, abs=0.06)
    assert statistics["epochs_of_books"] == 1 and 0.3 < statistics["epochs_of_letters"] < 0.7
    assert f"books {statistics['share_of_books']:.0%} (1 epochs), letters" in headline(mixed)
    names = {node.name for node in lineage.origins(samples, store.list()).nodes()}
    assert {str(books), str(letters), str(mixed)} < names


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[mix]\nweights = {{ books = 3, letters = 1 }}", "", "corpora and mix belong together"),
        ("letters = 1", "leters = 1", "the mix has to name each of the corpora once; look at leters, letters"),
        ("weights", "weight", "unknown key 'mix.weight'; did you mean 'weights'?"),
        ("books = 3, letters = 1 }}", "books = -3, letters = 1 }}", "cannot be negative"),
        ('name = "mixed"', 'name = "books"', "'books' is what the mix is called"),
        ("validation = 0.1", "validation = 0.2", "hold out the same shares"),
        ("[mix]", "[ingest]\nsources = [{{ uri = 'a.txt' }}]\n[mix]", "either one ingest, or several corpora"),
        (
            "[corpora.books]",
            "[corpora.books]\nkep = ['gopher']",
            "unknown key 'corpora.books.kep'; did you mean 'keep'?",
        ),
    ],
)
def test_a_mixture_that_makes_no_sense_is_one_sentence(config_file, tmp_path, old, new, sentence):
    config_file.write_text(CONFIG.replace(old, new, 1).format(folder=tmp_path))
    with pytest.raises(InputError) as error:
        load_config(config_file)
    assert sentence in str(error.value) and "\n" not in str(error.value)
