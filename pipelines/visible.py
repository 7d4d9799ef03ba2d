r"""Other people's text, made safe to show: on a terminal, in a log, in HTML and in Markdown.

A terminal obeys control characters: they set its title, write its clipboard or hide a line. Bidi controls and line
separators change how the text around them is shown. Here each becomes its name in Python, such as `\x1b` or `\u202e`.
All other text stays as it is, in any script.
"""

import hashlib
import re
from html import escape

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # bidi controls, and deprecated ones beside them
    "\u2028\u2029"  # line and paragraph separator
    "\ud800-\udfff"  # halves of characters, which no encoding can write
    "]"
)


def visible(text: str) -> str:
    """Return a text with its control characters written out. Tabs and newlines stay."""
    return _HIDDEN.sub(_name, text)


def one_line(text: str) -> str:
    """Return a text as `visible` does, on one line: a newline in a name must not begin a line of its own."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def in_html(text: str) -> str:
    """Return a text to write into HTML or SVG."""
    return escape(visible(text))


def in_markdown(text: str) -> str:
    """Return a text to write into a line or a table cell of Markdown, where it makes no link, picture or tag."""
    text = re.sub(r"&(?=[#\w])", "&amp;", one_line(text))
    text = re.sub(r"<(?=\S)", "&lt;", text)
    return re.sub(r"[\\`*\[\]|!~]", r"\\\g<0>", text)


def shorten(text: str, limit: int) -> str:
    """Return a text of at most so many characters. An ellipsis shows that it was longer."""
    return text if len(text) <= limit else f"{text[: max(limit - 1, 0)]}…"


def cut(text: str, limit: int, whole: str = "") -> str:
    """Return a text of at most so many bytes. What is cut off becomes a digest, so that no two texts become one.

    Args:
        text: the text.
        limit: the bytes that it may have in UTF-8.
        whole: what the digest is of, if the text is only its beginning.
    """
    if len(text.encode("utf-8", "replace")) <= limit and not whole:
        return text
    digest = hashlib.sha256((whole or text).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    room = limit - len(digest) - 2
    return f"{text.encode('utf-8', 'replace')[:room].decode('utf-8', 'ignore')}..{digest}"


def _name(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
