import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt.classifier import Classifier, Decision
from gpt.config import PRESETS
from gpt.model import GPT
from gpt.weights import load_classifier, load_model, save_classifier, save_model

pytestmark = pytest.mark.integration

Make = Callable[..., GPT]


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(t, second[name]) for name, t in first.items())


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_model_loads_unchanged(make_model: Make, tmp_path: Path, preset: str) -> None:
    model = make_model(preset, dropout=0.1)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert_same(loaded, model)
    ids = torch.randint(0, 97, (2, 9))
    assert torch.equal(loaded(ids), model(ids))
    save_model(loaded, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_transformers_loads_a_saved_model(make_model: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = make_model(context=48)
    save_model(model, tmp_path, end_of_text=96)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert theirs.config.eos_token_id == 96
    ids = torch.randint(0, 97, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("part", ["whole", "base", "sharded"])
def test_gpt2_of_transformers_loads(make_model: Make, reference: Callable[..., Any], tmp_path: Path, part: str) -> None:
    theirs = reference(make_model())
    saved = theirs.transformer if part == "base" else theirs  # like the published gpt2, without `transformer.` in names
    saved.save_pretrained(tmp_path, max_shard_size="100KB" if part == "sharded" else "5GB")
    if part == "sharded":
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = load_model(tmp_path)
    ids = torch.randint(0, 97, (2, 30))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("threshold", [None, 0.3125])
def test_saved_classifier_loads_with_its_decision(threshold: float | None, make_model: Make, tmp_path: Path) -> None:
    model = Classifier(make_model("modern"), 2, "mean")
    decision = Decision(("ham", "spam"), "spam", threshold)
    save_classifier(model, decision, tmp_path)
    loaded, loaded_decision = load_classifier(tmp_path)
    assert loaded_decision == decision and loaded.pooling == "mean"
    assert_same(loaded, model)
    with pytest.raises(ValueError, match="1 labels for 2 classes"):
        save_classifier(model, Decision(("ham",), "ham"), tmp_path)


def test_language_model_does_not_load_as_classifier(make_model: Make, tmp_path: Path) -> None:
    save_model(make_model(), tmp_path)
    with pytest.raises(ValueError, match="no classifier"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("index", ["{}", "[]", "not JSON", '{"weight_map": {"a": "../other.safetensors"}}'])
def test_bad_index_raises_a_sentence(make_model: Make, tmp_path: Path, index: str) -> None:
    save_model(make_model(), tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"names no files of weights|outside its folder"):
        load_model(tmp_path)


class Malicious:
    def __reduce__(self) -> tuple:
        return exec, ("import gpt; gpt.was_hacked = True",)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_malicious_pickle_is_rejected(make_model: Make, tmp_path: Path, name: str) -> None:
    import gpt

    save_model(make_model(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"no safetensors file|pickled weights are not read"):
        load_model(tmp_path)
    assert not hasattr(gpt, "was_hacked")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_inner": 7}, "n_inner is 7"),
        ({"n_embd": 60}, "has shape"),
        ({"n_layer": 3}, "lacks the weight transformer.h.2.ln_1.weight"),
        ({"n_head": 7}, "not a multiple of heads"),
    ],
)
def test_unsupported_config_is_rejected_with_its_reason(
    make_model: Make, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    save_model(make_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=sentence):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["../secret/model.safetensors", "..", ".", "", "a\\b", "a\0", "/x", "x\n", 1, None])
def test_index_cannot_point_outside_its_folder(make_model: Make, tmp_path: Path, name: Any) -> None:
    save_model(make_model(), tmp_path / "secret")
    save_model(make_model(), tmp_path / "model")
    index = {"weight_map": {"wte.weight": name}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its folder"):
        load_model(tmp_path / "model")


def test_folder_without_config_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_model(tmp_path)
