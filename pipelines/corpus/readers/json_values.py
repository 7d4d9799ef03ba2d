"""A reader of JSON: the elements of an array or values one behind the other, of which one is in memory at a time."""

import io
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, BinaryIO, cast

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import BUFFER, MAX_REASON, MAX_WHOLE, Bad, ReadOptions, Record, short_line

BETWEEN = re.compile("[\\s,\x1e\ufeff]*")  # what may stand between two values: also RFC 7464's record separators
FIRST_KEY = re.compile(r'\{\s*("(?:[^"\\]|\\.){0,200}")\s*:')
KEY = re.compile(r'"((?:[^"\\]|\\.){1,200})"\s*:')
COMMENT = re.compile(r"\s*(//|/\*|#)")
CUT = 12  # characters of the longest word or escape that the end of a block may cut
BEFORE = 10_000  # characters before an error in which the key is looked for
SHOWN = 1000  # characters of a value that is rejected
MAX_BAD = 1000  # values in a row that are no objects, behind which none is looked for
NO_OBJECT = "not a JSON object"
DECODER = json.JSONDecoder(parse_constant=lambda name: None)  # NaN and infinities are no values of JSON


def read_json(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read a list of objects, one object, or objects one behind the other."""
    values = _Values(open_text(file, options))
    found = iter(values)
    for first in found:
        others = list(islice(found, 1))
        if isinstance(first, dict) and not others and not values.has_list and (shape := _other_shape(first, options)):
            yield Bad(shape, "record 1")
            return
        for number, value in enumerate(chain([first], others, found), 1):
            if isinstance(value, dict):
                yield Record(value, f"record {number}")
            else:
                yield value._replace(location=f"record {number}")


def _other_shape(value: dict[str, Any], options: ReadOptions) -> str:
    """Return what an object is that is a whole table, or nothing if it may be a record."""
    for name, column in value.items():
        shown = short_line(name, MAX_REASON)
        if name in options.wanted:
            if isinstance(column, dict) or (isinstance(column, list) and not any(isinstance(e, dict) for e in column)):
                return f"one object of columns, such as {shown!r}, and not of records; write one object for each record"
        elif isinstance(column, list) and column and isinstance(column[0], dict):
            keys = short_line(", ".join(column[0]), MAX_REASON)
            if options.wanted and not set(options.wanted) & set(value):
                return f"one object whose {shown!r} lists {len(column):,} objects with {keys}; write this list alone"
    return ""


class _Values:
    """The values of a text. Behind a broken one, reading goes on at the next object with the same first key.

    has_list: whether they are elements of a list.
    """

    def __init__(self, text: io.TextIOBase) -> None:
        self._text, self._block, self._at = text, "", 0
        self.has_list = False

    def __iter__(self) -> Iterator[dict[str, Any] | Bad]:
        is_open, n_bad, most_bad = False, 0, 0
        while self._skip_between():
            start, sign = self._at, self._block[self._at]
            if sign == "]" if is_open else sign == "[":
                is_open, self.has_list, most_bad = not is_open, True, MAX_BAD
                self._at += 1
                continue
            try:
                value, end = DECODER.raw_decode(self._block, start)
            except (ValueError, RecursionError) as error:
                if not (is_cut(error, self._block) and self._more()):
                    n_bad += 1
                    yield self._broken(error, n_bad > most_bad)
                continue
            if end == len(self._block) and self._more():
                continue  # a number may be longer
            if isinstance(value, dict):
                self._at, n_bad, most_bad = end, 0, MAX_BAD
                yield value
                continue
            n_bad += 1
            if n_bad > most_bad:
                yield self._broken(None, True)
            else:
                self._at = end
                yield Bad(NO_OBJECT, "", str(value)[:SHOWN])
        if is_open and not n_bad:
            yield Bad("the file ends within its list", "")

    def _skip_between(self) -> bool:
        """Skip what is between values. Return whether there is a next one."""
        while True:
            self._at = cast("re.Match[str]", BETWEEN.match(self._block, self._at)).end()
            if self._at < len(self._block) or not self._more():
                return self._at < len(self._block)

    def _more(self) -> bool:
        """Read some more of the text. Return whether there was some, and whether the value may be longer."""
        size = len(self._block) - self._at
        more = self._text.read(max(BUFFER, size)) if size <= MAX_WHOLE else ""
        if more:
            self._block, self._at = self._block[self._at :] + more, 0
        return bool(more)

    def _broken(self, error: Exception | None, is_last: bool) -> Bad:
        """Skip a broken value. If reading cannot go on behind it, say how many bytes are lost."""
        text = self._block[self._at : self._at + SHOWN]
        reason = reason_of(error, self._block, self._at) if error else NO_OBJECT
        key = FIRST_KEY.match(self._block, self._at)
        following = re.compile(r"(?=[\[{\n,\]])")
        if key:
            following = re.compile(r"\}[\s,\x1e]*(?=\{\s*" + re.escape(key[1]) + r"\s*:)")
        elif is_last or text.startswith("{") or isinstance(error, RecursionError):
            following = re.compile("(?!)")
        self._at += not key
        n_lost = 0 if key else 1
        while not (found := following.search(self._block, self._at)):
            end = max(self._at, len(self._block) - (SHOWN if key else 0))  # the block may end within the pattern
            n_lost += _size(self._block[self._at : end])
            self._at = end
            if not self._more():
                rest = self._block[self._at :]
                self._at = len(self._block)
                is_own = not n_lost and not re.search(r"\}[\s,\x1e]*\{", rest)
                return Bad(reason, "", text, lost_bytes=0 if is_own else n_lost + _size(rest))
        self._at = found.end()
        return Bad(reason, "", text)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def is_cut(error: Exception, block: str) -> bool:
    """Return whether a value may only be broken since the block ends within it."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos > len(block) - CUT or error.msg.startswith("Unterminated")


def reason_of(error: Exception, text: str, start: int = 0) -> str:
    """Return why a text is not JSON, with the column if one is known."""
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return "not JSON: a number of too many digits"
    keys = KEY.findall(text, max(start, error.pos - BEFORE), error.pos)
    column = f" in column {short_line(keys[-1], MAX_REASON)!r}" if keys else ""
    return f"not JSON{column}: {_what(error, text)}"


def _what(error: json.JSONDecodeError, text: str) -> str:
    if COMMENT.match(text, error.pos):
        return "a comment, which JSON does not have"
    if text[: error.pos].rstrip().endswith(",") and text[error.pos :].lstrip()[:1] in ("]", "}"):
        return "a comma before a closing bracket"
    return error.msg.removesuffix(" at").removesuffix(" starting").lower()
