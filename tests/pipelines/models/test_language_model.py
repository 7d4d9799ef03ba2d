"""Published models ready for use: opening, and completed and streamed text."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from damages import put
from examples import step

from gpt.classifier import Classifier, Decision
from gpt.config import gpt_config
from gpt.generate import Sampling
from gpt.model import GPT
from gpt.weights import save_classifier, save_model
from pipelines.errors import InputError
from pipelines.models import open_model
from pipelines.models.language_model import SAMPLING, Assistant, LanguageModel, open_gpt
from pipelines.models.text_classifier import TextClassifier
from pipelines.store.intact import Damaged
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import save_template, template_named
from pipelines.tokens.tokenizers import named_tokenizer

PLAIN = template_named("plain")
TOKENIZER = count_characters([PLAIN.user, PLAIN.assistant, "abcdefghijklmnopqrstuvwxyz é?"])


def tiny() -> GPT:
    torch.manual_seed(1)
    return GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=32)).eval()


@pytest.fixture
def folder(tmp_path):
    save_model(tiny(), tmp_path)
    TOKENIZER.save(tmp_path)
    return tmp_path


def test_folder_opens_as_what_it_holds(folder):
    assert type(open_model(folder)) is LanguageModel
    save_template(PLAIN, folder / "template.json")
    assert isinstance(open_model(folder), Assistant)
    save_classifier(Classifier(tiny(), 2), Decision(("no", "yes"), "yes"), folder)
    assert isinstance(open_model(folder), TextClassifier)
    with pytest.raises(InputError, match="holds a classifier"):
        open_gpt(folder)
    named_tokenizer("gpt2").save(folder)
    with pytest.raises(InputError, match=r"its tokenizer has 50,257 tokens, and it knows \d+"):
        open_model(folder)


def test_copy_of_a_published_model_is_checked(store, tmp_path):
    def write(out, scratch):
        save_model(tiny(), out)
        TOKENIZER.save(out)
        return {}

    made = store.build(step(kind="model"), write)
    copy = shutil.copytree(made.folder, tmp_path / "artifacts")  # as MLflow stores it
    assert type(open_model(copy)) is LanguageModel
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        content = (copy / name).read_bytes()
        put(copy / name, content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(Damaged, match=f"{name} is damaged; see tokenmill datasets verify {made.ref} "):
            open_model(copy)
        put(copy / name, content)


@pytest.mark.parametrize(
    "wrong", [{"layers": 10**9}, {"vocabulary": 10**12}, {"context": 10**12}, {"width": 10**9}, []]
)
def test_config_that_does_not_fit_its_weights_allocates_nothing(folder, wrong):
    config = json.loads((folder / "config.json").read_bytes())
    keys = {"layers": "n_layer", "vocabulary": "vocab_size", "context": "n_positions", "width": "n_embd"}
    content = config | {keys[name]: value for name, value in wrong.items()} if wrong else wrong
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="does not hold a model"):
        open_model(folder)


@pytest.mark.parametrize("change", [{"a": 3, "b": 3}, {"a": -1}, {"a": "x"}, {"a": 1 << 40}, {"a": True}])
def test_tokenizer_with_wrong_ids_is_refused(folder, change):
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["vocab"] |= change
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer"):
        open_model(folder)


def test_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(InputError, match="tokenizer"):
        open_model(tmp_path)


def test_streamed_pieces_are_the_completed_text(folder):
    model = open_gpt(folder)
    sampling = replace(SAMPLING, max_new_tokens=30, seed=4)
    whole = model.complete(["ab", "c"], sampling)
    assert "".join(model.stream("ab", sampling)) == whole[0]
    assert model.complete(["ab"], sampling) == whole[:1]


def test_streamed_piece_never_ends_within_a_character(monkeypatch):
    tokenizer, text = named_tokenizer("gpt2"), "naïve ☃ 🦉🦉, said \N{REPLACEMENT CHARACTER}"
    model = LanguageModel(GPT(gpt_config("pico", vocabulary=tokenizer.vocabulary, context=16)), tokenizer)
    sampling = Sampling(40, temperature=2.0, seed=1)
    assert "".join(model.stream("", sampling)) == model.complete([""], sampling)[0], "bytes that make no sense too"
    for cut, rest in ((0, ""), (1, "\N{REPLACEMENT CHARACTER}")):  # with a last character that is whole, or not
        ids = tokenizer.encode(text[:-1] if cut else text).tolist() + tokenizer.encode("🦉").tolist()[:cut]
        monkeypatch.setattr("pipelines.models.language_model.stream", lambda *_, ids=ids, **__: iter(ids))
        pieces = list(model.stream(""))
        assert "".join(pieces) == (text[:-1] + rest if cut else text) and len(pieces) > 5
        assert "".join(pieces[:-1]).count("\N{REPLACEMENT CHARACTER}") == 0
