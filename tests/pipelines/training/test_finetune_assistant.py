import json

import pytest
import torch

from gpt.batch import IGNORE, pad
from gpt.config import Config, gpt_config
from gpt.generate import Sampling
from gpt.model import GPT
from gpt.train import TrainConfig, train
from gpt.weights import save_model
from pipelines.corpus.conversation import Message
from pipelines.corpus.examples import EXAMPLES, Example
from pipelines.errors import InputError
from pipelines.models.language_model import Assistant, LanguageModel, as_assistant, open_model
from pipelines.store.step import StepType
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import shipped, template_named
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES, inputs_and_targets
from pipelines.training.finetune_assistant import FINETUNE_ASSISTANT, AssistantConfig

TOKENIZER = count_characters([*(path.read_text() for path in shipped().values()), "abcdefghijklmnopqrstuvwxyz ?.!"])


def assistant(template="plain", context=128, **config):
    torch.manual_seed(0)
    size = gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=context, layers=1, width=16, **config)
    return as_assistant(LanguageModel(GPT(size).eval(), TOKENIZER), template_named(template))


def talk(*contents):
    return [Message(role="assistant" if number % 2 else "user", content=text) for number, text in enumerate(contents)]


def test_prompt_is_encoded_as_in_use():
    model = assistant("chatml")
    end = model.template.end_ids(model.tokenizer)
    ids = model.prompt(talk("a?", "b.", "c?"))
    text = model.tokenizer.decode(ids)
    assert text == (
        "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\nb.<|im_end|>\n"
        "<|im_start|>user\nc?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(end[0]) == 3 and model.stop == [end, [TOKENIZER.end_of_text]]
    assert model.prompt("c?") == model.prompt(talk("c?"))


def test_prompt_drops_old_exchanges_and_rejects_long_messages():
    model = assistant(context=100)
    one = len(model.prompt("c?"))
    assert model.prompt(talk("a" * 40, "b", "c?")) == model.prompt("c?")
    assert len(model.prompt(talk("a", "b", "c?"))) > one
    assert model.prompt(talk("a", "b", "c?"), room=60) == model.prompt("c?")
    with pytest.raises(ValueError, match="longer than the 99 tokens"):
        model.prompt("a" * 100)


def test_batch_without_targets_is_an_error():
    model = assistant()
    ids, targets = inputs_and_targets(model.template, model.tokenizer, talk("a?", "b."))
    nothing = pad([ids], [[IGNORE] * len(targets)])
    with pytest.raises(ValueError, match="no target that counts"):
        train(model.gpt, lambda step, micro: nothing, TrainConfig(steps=1))


# The step


def write_base(inputs, config, out, work):
    torch.manual_seed(0)
    model = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=100, layers=2, width=16))
    save_model(model, out)
    TOKENIZER.save(out)
    return {}


BASE = StepType("base", kind="model", version=1, config=Config, run=write_base)


@pytest.fixture
def inputs(build, tmp_path):
    rows = [{"instruction": f"a{'b' * (i % 7)}?", "response": "c" * (1 + i % 3)} for i in range(60)]
    rows.append({"instruction": "too long", "response": "c" * 120})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(tmp_path / "rows.jsonl"), "response": "response"}
    examples = build(EXAMPLES, {"sources": [source], "split": {"validation": 0.3}})
    return {"model": build(BASE, {}), "examples": examples}


TRAINING = {"steps": 2, "batch_size": 4, "evaluate_every": 2, "learning_rate": 0.01}


@pytest.mark.parametrize("how", ["all", "last:1", "lora"])
@pytest.mark.parametrize("packing", [False, True])
def test_assistant_is_trained_in_whole_in_part_or_by_lora(build, warnings, inputs, how, packing):
    template = "chatml" if packing else "plain"
    config = TRAINING | {"trainable": how, "packing": packing, "template": template, "lora_rank": 2}
    tokenized = build(TOKENIZE_EXAMPLES, AssistantConfig(**config).tokenize_examples.model_dump(), **inputs)
    assert tokenized.manifest.statistics["too_long"] == 1
    assert any("left out 1 example longer than the context of 100" in each for each in warnings.sentences)
    made = build(FINETUNE_ASSISTANT, config, lessons=tokenized, **inputs)
    statistics, model = made.manifest.statistics, open_model(made.path)
    assert isinstance(model, Assistant) and model.template == template_named(template)
    before = open_model(inputs["model"].path)
    added = len(model.template.special) * 16
    assert sum(p.numel() for p in model.gpt.parameters()) == sum(p.numel() for p in before.gpt.parameters()) + added
    assert (statistics["parameters_trained"] == statistics["parameters"]) == (how == "all")
    old, new = before.gpt.state_dict(), model.gpt.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name][: len(old[name])])}
    assert ("blocks.0.mlp.input.weight" in moved) == (how != "last:1") and "blocks.1.mlp.input.weight" in moved
    assert ("tokens.weight" in moved) == (how == "all" or packing)  # new token ids always learn
    config = json.loads(made.file("config.json").read_text())
    assert config["eos_token_id"] == model.stop[0][0]
    assert isinstance(model.complete([model.prompt("ab?")], Sampling(3))[0], str)


def test_examples_without_anything_to_learn_are_an_error(build, inputs, tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"instruction": "a", "response": "c" * 120}))
    source = {"uri": str(tmp_path / "long.jsonl"), "response": "response"}
    long = build(EXAMPLES, {"sources": [source], "split": {"validation": 0, "test": 0}})
    template = {"template": "plain"}
    with pytest.raises(InputError, match="no train example of at most 100 tokens to learn from"):
        build(TOKENIZE_EXAMPLES, template, model=inputs["model"], examples=long)
    tokenized = build(TOKENIZE_EXAMPLES, template, **inputs)
    with pytest.raises(InputError, match="last:N with N from 1 to 2"):
        build(FINETUNE_ASSISTANT, TRAINING | {"trainable": "last:9"}, lessons=tokenized, **inputs)


def test_messages_of_an_example_are_system_history_and_instruction():
    row = Example("0", "s", "train", "c", None, "c", "about", "d", ("a", "b"), "be kind")
    roles = [(message.role, message.content) for message in row.conversation]
    assert roles == [("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert row.messages == row.conversation[:-1] and row.messages[-1].input == "about"
