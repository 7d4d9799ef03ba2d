"""Models by name and by folder: text, answers, labels, embeddings."""

import numpy as np
import pytest
import torch

import tokenmill
from pipelines.models import open_model

pytestmark = pytest.mark.integration


def only(home, pattern):
    (folder,) = home.glob(f"data/{pattern}")
    return folder


def test_folder_may_be_a_text_or_a_path(here):
    folder = only(here, "model/walks-food-*")
    relative = folder.relative_to(here)
    for each in (folder, str(folder), relative, str(relative), f"./{relative}"):
        assert tokenmill.model(each).labels == ("food", "thing")
    assert open_model(str(relative)).labels == open_model(relative).labels
    assert tokenmill.manifest(str(folder)) == tokenmill.manifest("model/walks-food") == tokenmill.manifest(folder)


def test_single_text_gives_a_single_result(home):
    model, classifier = (tokenmill.model(name, home=home) for name in ("walks", "walks-food"))
    assert model.complete("Ada", max_new_tokens=4, seed=3) == model.complete(["Ada"], max_new_tokens=4, seed=3)[0]
    assert classifier.classify("Ada") == classifier.classify(["Ada"])[0]
    assert model.n_parameters == tokenmill.manifest("walks", home=home).statistics["parameters"]
    assert classifier.n_parameters > model.n_parameters


def test_embedding_is_the_mean_of_the_last_hidden_states(home):
    model = tokenmill.model("walks", home=home)
    texts = ["Ada found a coin.", "Ben", "", "Finn walked. " * 60]
    found = model.embed(texts)
    assert found.dtype == np.float32 and found.shape == (4, model.gpt.config.width)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([model.encode(text)[: model.gpt.config.context]])
        with torch.inference_mode():
            assert row == pytest.approx(model.gpt.hidden(ids)[0].mean(0).numpy(), abs=1e-5)
    assert tokenmill.model("walks-food", home=home).embed("Ben").shape == (1, model.gpt.config.width)


def test_assistant_takes_messages_as_other_libraries_write_them(home):
    assistant = tokenmill.model("walks-answers", home=home)
    question = "Eve found bread. Food?"
    asked = [{"role": "user", "content": question}]
    assert assistant.chat(asked, max_new_tokens=3) == assistant.chat(question, max_new_tokens=3)
    with pytest.raises(ValueError, match="longer than"):
        assistant.chat("Eve " * 100)


def test_tokenizer_of_a_model_and_of_its_tokens_agree(home):
    text = "Ada walked to the mill."
    of_model, of_tokens = (tokenmill.tokenizer(name, home=home) for name in ("walks", "tokens/walks"))
    assert of_model.encode(text).tolist() == of_tokens.encode(text).tolist()
    assert of_model.decode(of_model.encode(text)) == text


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda home: tokenmill.model("walk", home=home), "did you mean 'walks'"),
        (lambda home: tokenmill.model("walks/7", home=home), "no model walks/7"),
        (lambda home: tokenmill.model(home / "nothing"), "There is no tokenizer in"),
        (lambda home: tokenmill.corpus(home / "nothing"), "nothing was published there"),
        (lambda home: tokenmill.corpus(only(home, "tokens/*")), "of kind tokens; one of kind corpus is wanted"),
        (lambda home: tokenmill.dataset("walks", "trian", home=home), "has no trian samples"),
        (lambda home: tokenmill.write_bin("walks", home / "x.bin", "trian", home=home), "has no trian tokens"),
    ],
)
def test_what_is_not_there_is_one_sentence(home, call, sentence):
    with pytest.raises(tokenmill.InputError, match=sentence):
        call(home)
    assert not (home / "x.bin").exists()
