"""Other people's text, made visible: nothing that a terminal obeys is left, and ordinary text stays as it is."""

import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.visible import in_html, in_markdown, one_line, visible

ANY = st.text(
    st.characters(codec=None, exclude_categories=()) | st.sampled_from("\x1b\x07\x9b\r\n\t\u202e\u2066\u200f")
)
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u061c\u200e\u200f\u206a\u206b\u206c\u206d\u206e\u206f"  # of direction, and deprecated


def is_obeyed(c):
    control = unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") and c not in "\t\n"
    return control or unicodedata.bidirectional(c) in BIDI or c in MARKS


@given(ANY)
def test_nothing_obeyed_is_left_and_all_else_stays(text):
    shown = visible(text)
    assert shown == "".join(repr(c)[1:-1] if is_obeyed(c) else c for c in text)
    assert not any(map(is_obeyed, shown)) and visible(shown) == shown
    shown.encode()


@given(ANY)
def test_one_line_has_no_second_one(text):
    assert len(one_line(text).splitlines()) <= 1 and "\t" not in one_line(text)


@pytest.mark.parametrize(
    "text",
    [
        "مرحبا بالعالم، ١٢٣",
        "שלום עולם (123)",
        "می\u200cخواهم",  # the joiner that Persian needs
        "👩\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f ❤\ufe0f",
        "हिन्दी ไทย 日本語 e\u0301 soft\u00adhyphen no\u00a0break",
        "a\tb\nc \\x1b [bold] :smile:",
    ],
)
def test_ordinary_text_in_any_script_is_unchanged(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b]0;T\x07", r"\x1b]0;T\x07"), ("\r\x7f\x9b", r"\r\x7f\x9b"), ("\u202e\udc80", r"\u202e\udc80")],
)
def test_character_becomes_its_name_in_python(text, shown):
    assert visible(text) == shown


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, text):
        self.words.append(text)


@given(st.text("<>&\"'ax \x1b\u202e/!-"))
def test_html_gets_text_only(text):
    page = Tags(in_html(text))
    assert not page.tags and "".join(page.words) == visible(text)


def test_markdown_gets_no_link_picture_tag_or_row():
    shown = in_markdown("![x](http://e/x.png) <img src=x onerror=y> [a](b) | `c` *d*\n# e &#x202e; & p < 1")
    assert shown == (
        r"\!\[x\](http://e/x.png) &lt;img src=x onerror=y> \[a\](b) \| \`c\` \*d\*" + r"\\n# e &amp;#x202e; & p < 1"
    )
