"""Models on disk: `config.json` and `model.safetensors`, for a GPT-2 in the layout of Hugging Face.

So `transformers` can load a saved GPT-2, and this module can load any GPT-2 checkpoint in safetensors. One table maps
the names of weights. Nothing here unpickles.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gpt.classifier import Classifier, Decision
from gpt.config import GPTConfig
from gpt.lora import merged_weights
from gpt.machine import allocate_for_reading
from gpt.model import GPT

GPT2_NAMES = {
    "tokens.": "wte.",
    "positions.": "wpe.",
    "blocks.": "h.",
    ".attention_norm.": ".ln_1.",
    ".attention.qkv.": ".attn.c_attn.",
    ".attention.output.": ".attn.c_proj.",
    ".mlp_norm.": ".ln_2.",
    ".mlp.input.": ".mlp.c_fc.",
    ".mlp.output.": ".mlp.c_proj.",
    "norm.": "ln_f.",
}
"""Parts of our parameter names and Hugging Face's, replaced in this order, each at most once."""

TRANSPOSED = re.compile(r"\.(attn|mlp)\.c_\w+\.weight$")
"""Names of the matrices that GPT-2 stores transposed, as (in, out)."""

GPT2_CONFIG = {
    "vocabulary": "vocab_size",
    "context": "n_positions",
    "layers": "n_layer",
    "heads": "n_head",
    "width": "n_embd",
    "dropout": "resid_pdrop",
}
"""Fields of `GPTConfig` and the keys of Hugging Face's config."""


def save_model(model: GPT, folder: str | Path, end_of_text: int | None = None) -> None:
    """Write `config.json` and `model.safetensors` into a folder, with LoRA changes folded in.

    Args:
        model: the model, which does not change.
        folder: created if it does not exist.
        end_of_text: id of the token at which `transformers` stops to generate.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = merged_weights(model)
    if is_gpt2(model.config):
        weights = {gpt2_name(name): t.T if TRANSPOSED.search(gpt2_name(name)) else t for name, t in weights.items()}
        weights = {f"transformer.{name}": t for name, t in weights.items()}
    _write(folder, weights, describe(model.config, end_of_text))


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> GPT:
    """Load a model that `save_model` wrote, or any GPT-2 of Hugging Face in safetensors.

    Files are mapped into memory, and each weight is copied once.

    Raises:
        ValueError: the folder has no such model.
    """
    folder = Path(folder)
    config, _ = _read_config(folder)
    stored = _stored(folder, config)
    with torch.device("meta"):
        model = GPT(config)
    _fill(model, folder, stored, device)
    return model.eval()


def save_classifier(model: Classifier, decision: Decision, folder: str | Path) -> None:
    """Write a classifier and its decision rule into a folder, with LoRA changes folded in.

    Raises:
        ValueError: the numbers of labels and classes differ.
    """
    if len(decision.labels) != model.n_classes:
        raise ValueError(f"{len(decision.labels)} labels for {model.n_classes} classes: give one each")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "tokenmill",
        "architectures": ["Classifier"],
        "gpt": model.gpt.config.model_dump(),
        "pooling": model.pooling,
        **asdict(decision),
    }
    _write(folder, merged_weights(model), config)


def load_classifier(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Classifier, Decision]:
    """Load a classifier and its decision rule from a folder that `save_classifier` wrote.

    Raises:
        ValueError: the folder has no classifier.
    """
    folder = Path(folder)
    config, raw = _read_config(folder)
    if "labels" not in raw or "pooling" not in raw:
        raise ValueError(f"{folder} holds no classifier: its config.json names no labels, or no pooling")
    stored = _stored(folder, config)
    try:
        labels = tuple(map(str, raw["labels"]))
        decision = Decision(labels, raw.get("positive", labels[-1]), raw.get("threshold"))
        with torch.device("meta"):
            model = Classifier(GPT(config), len(labels), raw["pooling"])
    except (TypeError, LookupError) as error:
        raise ValueError(f"{folder / 'config.json'} describes no classifier: {error}") from None
    _fill(model, folder, stored, device)
    return model.eval(), decision


def is_gpt2(config: GPTConfig) -> bool:
    """Return whether the architecture is that of GPT-2, of any size."""
    sizes = {name: getattr(config, name) for name in GPT2_CONFIG}
    return config == GPTConfig(**sizes)


def gpt2_name(name: str) -> str:
    """Return Hugging Face's name of one of our parameters, without the prefix `transformer.`."""
    for ours, theirs in GPT2_NAMES.items():
        name = name.replace(ours, theirs, 1)
    return name


def describe(config: GPTConfig, end_of_text: int | None = None) -> dict[str, Any]:
    """Return the content of `config.json`: Hugging Face's keys for a GPT-2, ours for any other model."""
    if not is_gpt2(config):
        return {"model_type": "tokenmill", "architectures": ["GPT"], "gpt": config.model_dump()}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        **{theirs: getattr(config, ours) for ours, theirs in GPT2_CONFIG.items()},
        "n_ctx": config.context,
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "torch_dtype": "float32",
    }


def parse_config(raw: dict[str, Any]) -> GPTConfig:
    """Return the architecture that the content of a `config.json` describes.

    Raises:
        ValueError: the model is not supported; the message names the key.
    """
    kind = raw.get("model_type")
    if kind == "tokenmill":
        return GPTConfig(**raw["gpt"])
    if kind != "gpt2":
        raise ValueError(f"model_type is {kind!r}: only gpt2 and tokenmill models can be loaded")
    needed = {
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    for key, value in needed.items():
        if raw.get(key, value) != value:
            raise ValueError(f"{key} is {raw[key]!r}: a GPT-2 has {value!r} there, and no other is known here")
    if raw.get("n_inner") not in (None, 4 * raw["n_embd"]):
        raise ValueError(f"n_inner is {raw['n_inner']}: only four times n_embd is known here")
    return GPTConfig(**{ours: raw[theirs] for ours, theirs in GPT2_CONFIG.items() if theirs in raw})


def read_config(folder: str | Path) -> GPTConfig:
    """Return the architecture of the model that a folder holds, without its weights.

    Raises ValueError with a sentence when the folder holds no such model.
    """
    return _read_config(Path(folder))[0]


def _read_config(folder: Path) -> tuple[GPTConfig, dict[str, Any]]:
    """Return the architecture and the raw content of a folder's `config.json`."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())
        return parse_config(raw), raw
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no model: there is no config.json in it") from None
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} describes no model: {error!r} is missing or wrong") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _write(folder: Path, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write both files, each atomically."""
    tensors = {name: t.detach().contiguous() for name, t in weights.items()}
    building = folder / ".model.safetensors"
    save_file(tensors, building, metadata={"format": "pt"})
    building.replace(folder / "model.safetensors")
    building = folder / ".config.json"
    building.write_text(json.dumps(config, indent=2) + "\n")
    building.replace(folder / "config.json")


@dataclass(frozen=True)
class _Stored:
    """A weight in a file: the file and the weight's shape."""

    path: Path
    shape: list[int]


def _fill(model: nn.Module, folder: Path, stored: Mapping[str, _Stored], device: str | torch.device) -> None:
    """Allocate memory for a model on the meta device and copy a folder's weights into it."""
    names = {}
    for name, parameter in model.named_parameters():  # before anything is allocated: a config can ask for any size
        candidates = (f"transformer.{gpt2_name(name)}", gpt2_name(name), name)
        found = next((n for n in candidates if n in stored), None)
        if found is None:
            raise ValueError(f"{folder} lacks the weight {candidates[0]} that its config.json asks for")
        wanted = list(parameter.T.shape if TRANSPOSED.search(found) else parameter.shape)
        if stored[found].shape != wanted:
            raise ValueError(f"{stored[found].path}: {found} has shape {stored[found].shape}, not {wanted}")
        names[name] = found
    allocate_for_reading(model, torch.device(device))
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            target = parameter.data.T if TRANSPOSED.search(names[name]) else parameter.data
            _copy(stored[names[name]].path, names[name], target)


def _stored(folder: Path, config: GPTConfig) -> dict[str, _Stored]:
    """Return the weights in a folder by name, which must be enough for the layers of a config."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        try:
            files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index} names no files of weights ({error!r})") from None
    found: dict[str, _Stored] = {}
    for name in files:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,200}", name, re.ASCII):
            raise ValueError(f"{index} points at {name!r}, outside its folder")
        path = folder / name
        try:
            with safe_open(path, "pt") as file:
                found |= {key: _Stored(path, file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            hint = ": pickled weights are not read; convert them with transformers' save_pretrained"
            raise ValueError(f"{folder} has no {name}{hint if list(folder.glob('*.bin')) else ''}") from None
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from None
    if config.layers > len(found):
        raise ValueError(f"{folder} has {len(found)} weights, too few for {config.layers} layers as in its config.json")
    return found


def _copy(path: Path, name: str, target: Tensor) -> None:
    """Copy a weight in slices of some 16 MB. Close the mapped file after each: its pages count as memory in use."""
    n = max(1, (1 << 24) * len(target) // max(1, target.numel() * target.element_size()))
    for at in range(0, len(target), n):
        rows = slice(at, at + n)
        with safe_open(path, "pt") as file:
            target[rows].copy_(file.get_slice(name)[rows])
