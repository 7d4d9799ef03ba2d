import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.conversation import Message, check_turns, recent
from pipelines.corpus.turns import read_turns

HELLO = {"role": "assistant", "content": "Hello"}
PAIR = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "user", "content": "Hi"}, HELLO],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],  # ShareGPT
        [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello"}]}],  # Gemini
        [{"role": "prompter", "text": "Hi"}, {"role": "assistant", "text": "Hello"}],  # OpenAssistant
        [{"role": " User", "content": [{"type": "text", "text": "Hi", "image_url": None}]}, HELLO],
        [{"role": "user", "content": None, "value": "Hi", "weight": None}, HELLO | {"weight": 1.0, "tool_calls": []}],
        [{"role": "user", "content": ["Hi"]}, HELLO | {"name": "Ada", "tool_calls": float("nan")}],
        {"role": ["user", "assistant"], "content": ["Hi", "Hello"]},  # Hugging Face's Sequence of a dict
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]',
        '\ufeff {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}\n',
        ["Hi", "Hello"],
        '["Hi", "Hello"]',
        ({"role": "user", "content": "Hi"}, HELLO),
    ],
)
def test_formats_of_conversations_give_the_same_messages(turns):
    messages, with_roles = read_turns(turns)
    assert [(message.role, message.content) for message in messages] == PAIR
    assert with_roles == ("Hi" not in turns[:1] if isinstance(turns, list) else turns != '["Hi", "Hello"]')


def test_parts_of_a_text_are_joined_by_line():
    content = [{"type": "text", "text": "Read this:"}, {"type": "input_text", "text": "a\r\nb"}, "now"]
    (message, _), _ = read_turns([{"role": "developer", "content": content}, HELLO])
    assert (message.role, message.content) == ("system", "Read this:\na\nb\nnow")


def test_empty_system_prompt_is_none():
    for content in ("", None, " ", []):
        messages, _ = read_turns([{"role": "system", "content": content}, {"role": "user", "content": "Hi"}, HELLO])
        assert (messages[0].role, messages[0].content) == ("system", "")
        check_turns(messages)


def user(**keys):
    return {"role": "user", "content": "Hi"} | keys


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ("Hi", "the conversation is not a list of turns"),
        (None, "the conversation is not a list of turns"),
        ({"role": ["user"], "content": []}, "the conversation is not a list of turns"),
        ("[{'role': 'user', 'content': 'Hi'}]", "the conversation is a text that is not JSON"),
        ("[" * 100_000, "the conversation is a text that is not JSON"),
        ([user()], "fewer than two turns"),
        ([user(), "Hello"], "turn 2 is a text, unlike the first"),
        (["Hi", HELLO], "turn 2 is a message with a role, unlike the first"),
        ([{"user": "Hi", "bot": "Hello"}, {"user": "Bye"}], "turn 1 has no role; its keys are user, bot"),
        ([user(role=None), HELLO], "turn 1 has no role; its keys are role, content"),
        ([user(role="tool"), HELLO], "turn 1 has the role 'tool'; it must be system, user or assistant"),
        ([user(role=["user"]), HELLO], "turn 1 has the role \"['user']\"; it must be"),
        ([user(), HELLO | {"content": None, "tool_calls": [{"id": "1"}]}], "turn 2 has 'tool_calls'; only text is"),
        ([user(), HELLO | {"function_call": {"name": "f"}}], "turn 2 has 'function_call'; only text is read"),
        ([user(), HELLO | {"reasoning_content": "Well"}], "turn 2 has 'reasoning_content'; only text is read"),
        ([user(), HELLO | {"weight": 0}], "turn 2 has the weight 0; only 1 is supported"),
        ([user(), HELLO | {"content": None}], "turn 2 has no text"),
        ([user(), HELLO | {"content": float("nan")}], "turn 2 has no text"),
        ([user(), HELLO | {"content": []}], "turn 2 has no text"),
        ([user(), HELLO | {"content": {"a": 1}}], "turn 2 has the part 'a'; only text is read"),
        ([user(content=[{"type": "image_url", "image_url": {}}]), HELLO], "turn 1 has the part 'image_url'; only"),
        ([user(content=[{"type": "input_audio"}]), HELLO], "turn 1 has the part 'input_audio'; only text is read"),
        ([user(content=[{"type": "text", "text": None}]), HELLO], "turn 1 has the part 'text'; only text is read"),
        ([user(content=[["Hi"]]), HELLO], "turn 1 holds list, not text"),
    ],
)
def test_turn_that_cannot_be_kept_whole_is_refused(turns, sentence):
    with pytest.raises(ValueError) as refused:
        read_turns(turns)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        ("ua", None),
        ("suaua", None),
        ("uu", "turn 2 is the user's, where the assistant's was due"),
        ("au", "turn 1 is the assistant's"),
        ("suasua", "turn 4 is the system's"),
        ("uau", "the last turn has no answer"),
        ("s", "nobody says anything"),
        ("", "nobody says anything"),
    ],
)
def test_user_and_assistant_take_turns(roles, sentence):
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [Message(role=names[role], content="x") for role in roles]
    if sentence is None:
        check_turns(messages)
        return
    with pytest.raises(ValueError, match=sentence):
        check_turns(messages)


@given(n=st.integers(1, 5), room=st.integers(0, 12), system=st.booleans())
def test_recent_drops_whole_exchanges_from_the_oldest(n, room, system):
    messages = [Message(role="system", content="s")] if system else []
    for i in range(n):
        messages += [Message(role="user", content=str(i)), Message(role="assistant", content=str(i))]
    kept = recent(messages, lambda some: len(some) <= room)
    if kept is None:
        assert room < 2 + system
        return
    assert len(kept) <= room or kept == messages
    assert list(kept[-2:]) == messages[-2:] and (not system or kept[0] == messages[0])
    assert list(kept[system:]) == messages[len(messages) - len(kept) + system :]
    check_turns(kept)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), room=st.integers(0, 60))
def test_as_many_exchanges_are_kept_as_fit(lengths, room):
    messages = [Message(role=("user", "assistant")[i % 2], content="x" * n) for i, n in enumerate(lengths)]

    def fits(some):
        return sum(len(message.content) for message in some) <= room

    fitting = (messages[cut:] for cut in range(0, len(messages), 2) if fits(messages[cut:]))
    assert recent(messages, fits) == next(fitting, None)


def test_long_conversation_is_tried_a_few_times_only():
    tried = []
    messages = [Message(role=("user", "assistant")[i % 2], content="x") for i in range(20_000)]
    assert recent(messages, lambda some: tried.append(len(some)) or len(some) <= 30) == messages[-30:]
    assert len(tried) < 20
