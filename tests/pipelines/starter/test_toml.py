"""TOML with comments: every value survives a round trip."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.starter.toml import comment, table, value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_table_survives_round_trip(keys):
    assert tomllib.loads(table("", keys, dict.fromkeys(keys, "why"))) == keys


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS)
def test_comment_is_only_a_comment(text, about):
    assert tomllib.loads(comment(text) + table("[a]", {"b": 1}, {"b": about})) == {"a": {"b": 1}}


def test_controls_are_escaped():
    assert value('a"\\\x1b\x7f\u202e\n') == r'"a\"\\\u001b\u007f\u202e\n"'


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(UnicodeEncodeError):
        value("\udcff")
