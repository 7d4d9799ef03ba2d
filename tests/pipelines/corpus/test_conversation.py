import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.conversation import Message, check_turns, recent


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
