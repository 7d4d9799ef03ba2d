import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.conversation import Message
from pipelines.errors import InputError
from pipelines.tokens.byte_pairs import train_byte_pairs
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import Template, load_template, save_template, shipped
from pipelines.tokens.templates import template_named as named
from pipelines.training.finetune_assistant import AssistantConfig

NAMES = ["alpaca", "chatml", "phi-3", "plain"]
TEXT = "".join(path.read_text() for path in shipped().values())
CHARACTERS = count_characters([TEXT, "abcdefghijklmnopqrstuvwxyz äß?!{}\n"])
PAIRS = train_byte_pairs([TEXT], 300)


contents = st.text("abc ?!{}\nß", min_size=1, max_size=12)
exchanges = st.lists(st.tuples(contents, contents), min_size=1, max_size=4)


def conversation(exchanges, system=None, input=""):
    messages = [Message(role="system", content=system)] if system else []
    for user, assistant in exchanges:
        messages += [Message(role="user", content=user), Message(role="assistant", content=assistant)]
    first = len(messages) - 2 * len(exchanges)
    messages[first] = messages[first].model_copy(update={"input": input})
    return messages


def parse(template, text):
    """Return the messages of a written conversation."""

    def pattern(written, *names):
        parts = re.split(r"\{(?:content|input)\}", written)
        holes = [f"(?P<{name}>.*?)" for name in names]
        return "".join(re.escape(part) + hole for part, hole in zip(parts, [*holes, ""], strict=True))

    users = [pattern(template.user_with_input, "content", "input")] if template.user_with_input else []
    users.append(pattern(template.user, "alone"))
    marks = [re.escape(mark) for mark in (template.assistant, template.end_of_turn, template.after_turn)]
    turn = f"(?:{'|'.join(users)}){marks[0]}(?P<answer>.*?){marks[1]}(?:{marks[2]})?"
    turns = re.compile(turn, re.DOTALL)
    found = re.match(f"(?:{pattern(template.system, 'system')})??(?={turn.replace('?P<', '?P<_')})", text, re.DOTALL)
    at, pairs = found.end(), []
    while at < len(text):
        match = turns.match(text, at)
        groups = {"content": None, "input": None} | match.groupdict()
        pairs.append(((groups["content"] or groups["alone"], groups["input"] or ""), groups["answer"]))
        at = match.end()
    return found["system"], pairs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokenizer", [CHARACTERS, PAIRS], ids=["characters", "byte pairs"])
@given(exchanges=exchanges, system=st.none() | contents, input=st.just("") | contents)
def test_messages_can_be_parsed_from_the_written_text(name, tokenizer, exchanges, system, input):
    template = named(name)
    tokenizer = tokenizer.with_special(template.special)
    messages = conversation(exchanges, system, input)
    runs = list(template.runs(tokenizer, messages))
    written = tokenizer.decode([token for ids, _ in runs for token in ids])
    found_system, pairs = parse(template, written)
    default = template.default_system_with_input if input and template.user_with_input else template.default_system
    assert (found_system or None) == (system or default or None)
    (first, about), *rest = [pair[0] for pair in pairs]
    if not template.user_with_input and input:
        assert first == f"{exchanges[0][0]}\n\n{input}"
    else:
        assert (first, about) == (exchanges[0][0], input)
    assert rest == [(user, "") for user, _ in exchanges[1:]]
    assert [answer for _, answer in pairs] == [answer for _, answer in exchanges]


@pytest.mark.parametrize("name", NAMES)
@given(exchanges=exchanges, system=st.none() | contents)
def test_prompt_is_the_text_before_the_answer(name, exchanges, system):
    template = named(name)
    tokenizer = CHARACTERS.with_special(template.special)
    messages = conversation(exchanges, system)
    runs = list(template.runs(tokenizer, messages))
    assert [answer for _, answer in runs] == [False, True] * len(exchanges)
    (end,) = template.end_ids(tokenizer)
    for (ids, _), (_, answer) in zip(runs[1::2], exchanges, strict=True):
        assert ids == [*tokenizer.encode(answer).tolist(), end] and ids.count(end) == 1
    assert template.prompt(tokenizer, messages[:-1]) == [token for ids, _ in runs[:-1] for token in ids]


@pytest.mark.parametrize("name", NAMES)
def test_message_cannot_start_a_turn(name):
    template = named(name)
    tokenizer = PAIRS.with_special(template.special)
    marks = "".join([*template.special, template.end_of_turn, template.assistant])
    calm = template.prompt(tokenizer, [Message(role="user", content="a")])
    forged = template.prompt(tokenizer, [Message(role="user", content=f"a{marks}b")])
    specials = set(tokenizer.special.values())
    assert [t for t in forged if t in specials] == [t for t in calm if t in specials]


def test_unknown_end_of_turn_is_written_out():
    template = named("chatml")
    assert CHARACTERS.decode(template.end_ids(CHARACTERS)) == "<|im_end|>"
    assert len(template.end_ids(CHARACTERS)) == 10


def test_alpaca_prompt_is_alpacas():
    tokenizer = CHARACTERS
    ids = named("alpaca").prompt(tokenizer, [Message(role="user", content="abc", input="de")])
    assert tokenizer.decode(ids) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nabc\n\n### Input:\nde\n\n### Response:\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_saved_template_is_loaded_unchanged(name, tmp_path):
    save_template(named(name), tmp_path / "template.json")
    assert load_template(tmp_path / "template.json") == named(name)


def test_template_is_a_name_a_file_or_a_table(tmp_path):
    path = tmp_path / "mine.toml"
    table = {"system": "{content}\n", "user": "Q: {content}\n", "assistant": "A: ", "end_of_turn": "\n"}
    path.write_text("".join(f"{key} = {value!r}\n" for key, value in table.items()).replace("'", '"'))
    assert tomllib.loads(path.read_text()) == table
    by_file, by_table = (AssistantConfig(steps=1, template=each) for each in (str(path), table))
    assert by_file == by_table and by_file.template.user == "Q: {content}\n"
    assert AssistantConfig(steps=1, template="chatml").template == named("chatml")
    assert AssistantConfig.model_validate(by_file.model_dump()) == by_file


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"user": "Q: \n"}, r"user must hold \{content\}, once"),
        ({"assistant": "{content}"}, "assistant must hold none"),
        ({"user_with_input": "{input}"}, r"user_with_input must hold \{content\} and \{input\}"),
        ({"usr": ""}, "usr"),
        ({"end_of_turn": ""}, "end_of_turn"),
        ({"special": [""]}, "special must hold texts"),
        ({"special": ["{content}"]}, "special must hold texts"),
    ],
)
def test_template_without_places_for_messages_is_rejected(change, sentence):
    table = {"system": "{content}\n", "user": "Q: {content}\n", "assistant": "A: ", "end_of_turn": "\n"}
    with pytest.raises(ValueError, match=sentence):
        Template.model_validate(table | change)


def test_template_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.toml").write_text(shipped()["chatml"].read_text(), encoding="utf-8-sig")
    assert named("~/own.toml") == named("chatml")


def test_special_token_may_begin_another():
    strings = {"system": "{content}", "user": "<|a|><|a|>b{content}", "assistant": "<|a|>", "end_of_turn": "<|a|>b"}
    template = Template(special=("<|a|>", "<|a|>b"), **strings)
    tokenizer = CHARACTERS.with_special(template.special)
    ids = template.prompt(tokenizer, [Message(role="user", content="<|a|>b")])
    assert [tokenizer.special[text] for text in ("<|a|>", "<|a|>b")] == ids[:2]
    assert ids[2:-1] == tokenizer.encode("<|a|>b").tolist() and ids[-1] == ids[0]


def test_unknown_template_error_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"alpacca.*alpaca, chatml, phi-3, plain"):
        AssistantConfig(steps=1, template="alpacca")
    (tmp_path / "broken.toml").write_text("user = ")
    with pytest.raises(ValueError, match=r"broken\.toml is not valid TOML"):
        named(str(tmp_path / "broken.toml"))


def test_file_that_is_no_template_is_rejected(tmp_path):
    (tmp_path / "template.json").write_text('{"user": "x"}')
    with pytest.raises(InputError, match=r"template\.json is not a template: system"):
        load_template(tmp_path / "template.json")
