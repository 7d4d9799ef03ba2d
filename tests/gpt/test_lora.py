from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt.batch import Batch
from gpt.lora import LoRALinear, add_lora, choose_trainable, merge_lora
from gpt.model import GPT
from gpt.train import TrainConfig, train
from gpt.weights import load_model, save_model

Make = Callable[..., GPT]


def tune(make_model: Make) -> tuple[GPT, dict[str, torch.Tensor]]:
    """Train LoRA on a model, and return it with the weights that it had before."""
    model = make_model()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    add_lora(model, rank=4, alpha=8.0, dropout=0.1)
    ids = torch.randint(0, 97, (4, 17))
    train(model, lambda step, micro: Batch(ids[:, :-1], ids[:, 1:]), TrainConfig(steps=5, learning_rate=1e-2))
    return model.eval(), before


def test_untrained_lora_changes_no_logit(make_model: Make) -> None:
    plain, model = make_model(), make_model()
    assert add_lora(model, rank=2, alpha=4.0) == 8
    ids = torch.randint(0, 97, (2, 9))
    with torch.no_grad():
        assert torch.equal(plain(ids), model(ids))
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"up", "down"}


def test_lora_training_keeps_the_frozen_weights(make_model: Make) -> None:
    model, before = tune(make_model)
    after = model.state_dict()
    assert all(torch.equal(t, after[name]) for name, t in before.items())


def test_merging_changes_no_logit(make_model: Make) -> None:
    model, _ = tune(make_model)
    ids = torch.randint(0, 97, (2, 9))
    with torch.no_grad():
        apart = model(ids)
        assert not torch.allclose(apart, make_model()(ids), atol=1e-3)
        merge_lora(model)
        torch.testing.assert_close(model(ids), apart, atol=1e-5, rtol=0)
    assert not any(isinstance(m, LoRALinear) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_saved_model_includes_lora_and_original_keeps_it(make_model: Make, tmp_path: Path) -> None:
    model, _ = tune(make_model)
    save_model(model, tmp_path)
    assert any(isinstance(m, LoRALinear) for m in model.modules())
    ids = torch.randint(0, 97, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids), model(ids), atol=1e-5, rtol=0)


def test_targets_choose_the_layers(make_model: Make) -> None:
    model = make_model("modern")
    assert add_lora(model, 2, 2.0, targets=("head",)) == 1
    with pytest.raises(ValueError, match="nothing to change"):
        add_lora(make_model(), 2, 2.0, targets=("nowhere",))
    with pytest.raises(ValueError, match="at least 1"):
        add_lora(make_model(), 0, 2.0)


def test_choose_trainable_can_include_embeddings_and_head(make_model: Make) -> None:
    model = make_model("modern")
    choose_trainable(model, "last:1", embeddings=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained >= {"tokens.weight", "head.weight", "blocks.1.mlp.input.weight"}
    assert not any(name.startswith("blocks.0.") for name in trained)
