import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.cleaning import CLEANERS, clean


@pytest.mark.parametrize(
    ("name", "before", "after", "count"),
    [
        ("unicode", "schÃ¶n &amp; gut", "schön & gut", 1),
        ("unicode", "“quoted” as it was", "“quoted” as it was", 0),
        ("whitespace", "a  b\tc \n\n\n\n    indented  ", "a b c\n\n    indented", 5),
        ("boilerplate", "Text.\nThis site uses cookies.\nMore text.", "Text.\nMore text.", 1),
        ("citations", "So it was.[12] Or not.[citation needed] [see] a[i]", "So it was. Or not. [see] a[i]", 2),
        ("c4_lines", "Home\nThis line ends like a sentence.\nToo short.\nThis one has no end at all", None, 3),
        ("redact", "to a.b+c@mail.example.org, not a@b", "to [EMAIL], not a@b", 1),
        ("redact", "from ::ffff:192.0.2.1, 64:ff9b::192.0.2.33. Or fe80::1.", "from [IP], [IP]. Or [IP].", 3),
        ("redact", "10.0.0.1 and 2001:db8::1, not 1.2.3.4.5, 300.1.1.1, 12:30:45, std::map or v1.2.3", None, 2),
    ],
)
def test_each_cleaner_cleans_and_counts(name: str, before: str, after: str | None, count: int) -> None:
    expected = {
        "c4_lines": "This line ends like a sentence.",
        "redact": "[IP] and [IP], not 1.2.3.4.5, 300.1.1.1, 12:30:45, std::map or v1.2.3",
    }
    assert CLEANERS[name](before) == (after if after is not None else expected[name], count)


def test_cleaners_run_in_order_and_count_changes_only() -> None:
    text, counts = clean("Uses cookies at 10.0.0.1\nfine  text", ["redact", "boilerplate", "whitespace", "unicode"])
    assert text == "fine text" and counts == {"redact": 1, "boilerplate": 1, "whitespace": 1}
    assert clean("a  b", []) == ("a  b", {})


@pytest.mark.parametrize("name", CLEANERS)
@given(text=st.text(st.sampled_from("ab.@:1[] \n\tÃ¶“"), max_size=80))
def test_cleaning_is_idempotent_and_counts_changes(name: str, text: str) -> None:
    once, count = CLEANERS[name](text)
    assert (count == 0) == (once == text)
    if name != "unicode":  # a text mangled three times is mended three times
        assert CLEANERS[name](once)[0] == once


def test_long_run_of_spaces_is_scanned_once() -> None:
    assert CLEANERS["whitespace"]("a" + " " * 300_000 + "b") == ("a b", 1)


MANGLED = [
    "a",
    "Ã¶",
    "Ã",
    "â€™",
    "&amp;",
    "&",
    "amp;",
    "#38;",
    "&lt;",
    "<",
    "\n",
    "\r",
    "\x85",
    "ﬁ",
    "Ａ",
    "\x1b[0m",
    "\u0323\u0301",
]


@given(text=st.lists(st.sampled_from(MANGLED) | st.characters(), max_size=20).map("".join))
def test_unicode_is_repaired_as_ftfy_repairs_it(text: str) -> None:
    assert CLEANERS["unicode"](text)[0] == ftfy.fix_text(text, uncurl_quotes=False)


def test_entities_in_entities_cost_few_rounds() -> None:
    for text in ("&" + "amp;" * 20_000, "&" + "#38;" * 20_000, "&" * 20_000 + "#1;" * 20_000):
        repaired, count = CLEANERS["unicode"](text)
        assert count == 1 and len(repaired) < len(text)
