"""What an assistant learns from: responses alone, to the token; the border of prompt and response; packed windows."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.batch import IGNORE, Batch, pad
from gpt.config import Config, gpt_config
from gpt.generate import Sampling
from gpt.loss import next_token_loss
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
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES, fit_conversation, inputs_and_targets
from pipelines.training.batches import PackedBatches
from pipelines.training.finetune_assistant import FINETUNE_ASSISTANT, AssistantConfig

TOKENIZER = count_characters([*(path.read_text() for path in shipped().values()), "abcdefghijklmnopqrstuvwxyz ?.!"])
words = st.text("abc ?", min_size=1, max_size=8)
exchanges = st.lists(st.tuples(words, words), min_size=1, max_size=3)


def assistant(template="plain", context=128, **config):
    torch.manual_seed(0)
    size = gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=context, layers=1, width=16, **config)
    return as_assistant(LanguageModel(GPT(size).eval(), TOKENIZER), template_named(template))


ASSISTANTS = {name: assistant(name) for name in shipped()}


def talk(*said):
    return [Message(role="assistant" if number % 2 else "user", content=text) for number, text in enumerate(said)]


@pytest.mark.parametrize("name", ASSISTANTS)
@given(exchanges=exchanges)
def test_targets_are_the_responses_and_one_end_of_turn_each_one_place_on(name, exchanges):
    model = ASSISTANTS[name]
    conversation = talk(*(text for pair in exchanges for text in pair))
    (end,) = model.template.end_ids(model.tokenizer)
    responses = [[*TOKENIZER.encode(answer).tolist(), end] for _, answer in exchanges]
    ids, targets = inputs_and_targets(model.template, model.tokenizer, conversation, "responses")
    assert [target for target in targets if target != IGNORE] == [token for each in responses for token in each]
    assert all(a == b for a, b in zip(ids[1:], targets, strict=False) if b != IGNORE)
    prompt = model.template.prompt(model.tokenizer, conversation[:-1])
    assert ids[: len(prompt)] == prompt  # what the model meets when it answers
    same, last = inputs_and_targets(model.template, model.tokenizer, conversation, "last")
    assert same == ids and [target for target in last if target != IGNORE] == responses[-1]
    _, everything = inputs_and_targets(model.template, model.tokenizer, conversation, "all")
    assert everything == [*ids[1:], end]


@given(exchanges=exchanges, seed=st.integers(0, 9))
def test_the_loss_does_not_move_when_the_targets_of_prompts_do(exchanges, seed):
    model = ASSISTANTS["plain"]
    ids, targets = inputs_and_targets(
        model.template, model.tokenizer, talk(*(text for pair in exchanges for text in pair))
    )
    ids, targets = ids[:128], targets[:128]
    loss, n = next_token_loss(model.gpt, pad([ids], [targets]))
    # Perturb what stands one place on from every prompt position: the inputs stay, so only targets could tell.
    generator = torch.Generator().manual_seed(seed)
    _, everything = inputs_and_targets(
        model.template, model.tokenizer, talk(*(text for pair in exchanges for text in pair)), "all"
    )
    noise = torch.randint(0, TOKENIZER.vocabulary, (len(ids),), generator=generator).tolist()
    perturbed = [e if t != IGNORE else r for t, e, r in zip(targets, everything, noise, strict=False)]
    masked = [p if t != IGNORE else IGNORE for t, p in zip(targets, perturbed, strict=True)]
    again, m = next_token_loss(model.gpt, pad([ids], [masked]))
    assert (again.item(), int(m)) == (loss.item(), int(n))
    logits = model.gpt(torch.tensor([ids]))[0].log_softmax(-1)
    expected = -sum(logits[i, t] for i, t in enumerate(targets) if t != IGNORE)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    moved, _ = next_token_loss(model.gpt, pad([ids], [perturbed]))
    assert moved.item() > loss.item()  # had they counted, it would show


def test_a_prompt_is_encoded_as_it_will_be_when_the_model_answers():
    model = ASSISTANTS["chatml"]
    end = model.template.end_ids(model.tokenizer)
    ids = model.prompt(talk("a?", "b.", "c?"))
    text = model.tokenizer.decode(ids)
    assert text == (
        "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\nb.<|im_end|>\n"
        "<|im_start|>user\nc?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(end[0]) == 3 and model.stop == [end, [TOKENIZER.end_of_text]]
    assert model.prompt("c?") == model.prompt(talk("c?"))


def test_history_goes_by_whole_exchanges_and_a_message_that_cannot_be_read_is_refused():
    model = assistant(context=100)
    one = len(model.prompt("c?"))
    assert model.prompt(talk("a" * 40, "b", "c?")) == model.prompt("c?")
    assert len(model.prompt(talk("a", "b", "c?"))) > one
    assert model.prompt(talk("a", "b", "c?"), room=60) == model.prompt("c?")
    with pytest.raises(ValueError, match="longer than the 99 tokens"):
        model.prompt("a" * 100)


def test_examples_that_do_not_fit_are_shortened_or_left_out_and_counted():
    model, counts = assistant(context=100), Counter()
    short = fit_conversation(
        model.template, model.tokenizer, talk("a?", "b."), "responses", model.gpt.config.context, counts
    )
    assert (
        fit_conversation(
            model.template,
            model.tokenizer,
            talk("x" * 60, "y" * 30, "a?", "b."),
            "responses",
            model.gpt.config.context,
            counts,
        )
        == short
    )
    assert (
        fit_conversation(
            model.template, model.tokenizer, talk("a?", "y" * 100), "responses", model.gpt.config.context, counts
        )
        is None
    )
    assert (
        fit_conversation(
            model.template, model.tokenizer, talk("a?", " "), "responses", model.gpt.config.context, counts
        )
        is None
    )
    assert counts == {"shortened": 1, "too_long": 1, "nothing_to_learn": 1}


def test_a_batch_with_nothing_to_learn_is_an_error():
    model = assistant()
    ids, targets = inputs_and_targets(model.template, model.tokenizer, talk("a?", "b."))
    nothing = pad([ids], [[IGNORE] * len(targets)])
    with pytest.raises(ValueError, match="no target that counts"):
        train(model.gpt, lambda step, micro: nothing, TrainConfig(steps=1))


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
@given(said=st.lists(st.tuples(words, words), min_size=1, max_size=12), batch_size=st.integers(1, 4))
def test_packed_examples_have_the_loss_that_they_have_alone(preset, said, batch_size):
    model = PRESETS[preset]
    lessons = [inputs_and_targets(model.template, model.tokenizer, talk(*pair)) for pair in said]
    ids, targets = zip(*lessons, strict=True)
    packed = PackedBatches(ids, targets, batch_size, 1, 0, context=128)
    assert sorted(i for window in packed.windows for i in window) == list(range(len(said)))
    together, n = next_token_loss(model.gpt, packed.batch(range(len(packed.windows))))
    alone, m = next_token_loss(model.gpt, pad(ids, targets))
    assert int(n) == int(m) and together.item() == pytest.approx(alone.item(), rel=1e-4)
    epoch = [packed(at, 0).inputs for at in range(packed.batches_per_epoch)]
    assert sum(len(batch) for batch in epoch) > len(packed.windows) - packed.batch_size
    assert torch.equal(packed(7, 0).inputs, PackedBatches(ids, targets, batch_size, 1, 0, context=128)(7, 0).inputs)


PRESETS = {preset: assistant(preset=preset, zero_init=False) for preset in ("gpt2", "modern")}


def test_packed_gradients_are_those_of_the_examples_alone():
    model = PRESETS["modern"]
    lessons = [inputs_and_targets(model.template, model.tokenizer, talk("a" * i, "b" * i)) for i in range(1, 9)]
    ids, targets = zip(*lessons, strict=True)
    packed = PackedBatches(ids, targets, 9, 1, 0, context=128)
    assert len(packed.windows) < len(lessons)

    def gradient(batch: Batch):
        loss, _ = next_token_loss(model.gpt, batch)
        return torch.autograd.grad(loss, list(model.gpt.parameters()), allow_unused=True)

    for a, b in zip(gradient(packed.batch(range(len(packed.windows)))), gradient(pad(ids, targets)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_new_token_ids_start_as_the_mean_of_the_others_and_change_no_other_logit(tied):
    torch.manual_seed(0)
    gpt = GPT(gpt_config("pico", vocabulary=20, context=8, tied=tied)).eval()
    ids = torch.arange(8)[None]
    before = gpt(ids)
    gpt.extend(23)
    after = gpt(ids)
    assert torch.equal(after[..., :20], before) and after.shape[-1] == gpt.config.vocabulary == 23
    torch.testing.assert_close(after[..., 20:], before.mean(-1, keepdim=True).expand(-1, -1, 3))
    torch.testing.assert_close(gpt.tokens.weight[22], gpt.tokens.weight[:20].mean(0))
    gpt.extend(23)
    assert gpt.config.vocabulary == 23


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
def test_an_assistant_is_trained_in_whole_in_part_or_by_lora(build, warnings, inputs, how, packing):
    template = "chatml" if packing else "plain"
    config = TRAINING | {"trainable": how, "packing": packing, "template": template, "lora_rank": 2}
    lessons = build(TOKENIZE_EXAMPLES, AssistantConfig(**config).lessons.model_dump(), **inputs)
    assert lessons.manifest.statistics["too_long"] == 1
    assert "1 examples are longer than the context of 100" in warnings.sentences[0]
    made = build(FINETUNE_ASSISTANT, config, lessons=lessons, **inputs)
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


def test_examples_of_which_none_can_be_learnt_from_are_an_error(build, inputs, tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"instruction": "a", "response": "c" * 120}))
    source = {"uri": str(tmp_path / "long.jsonl"), "response": "response"}
    long = build(EXAMPLES, {"sources": [source], "split": {"validation": 0, "test": 0}})
    template = {"template": "plain"}
    with pytest.raises(InputError, match="no train example of at most 100 tokens to learn from"):
        build(TOKENIZE_EXAMPLES, template, model=inputs["model"], examples=long)
    lessons = build(TOKENIZE_EXAMPLES, template, **inputs)
    with pytest.raises(InputError, match="last:N with N from 1 to 2"):
        build(FINETUNE_ASSISTANT, TRAINING | {"trainable": "last:9"}, lessons=lessons, **inputs)


def test_an_examples_messages_are_system_history_and_instruction():
    row = Example("0", "s", "train", "c", None, "c", "about", "d", ("a", "b"), "be kind")
    roles = [(message.role, message.content) for message in row.conversation]
    assert roles == [("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert row.messages == row.conversation[:-1] and row.messages[-1].input == "about"
