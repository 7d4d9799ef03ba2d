"""Readers of CSV and TSV, which give up one row at a time, and the guesses of delimiter and quotes."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any, BinaryIO

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import (
    BUFFER,
    MAX_COLUMNS,
    MAX_LINE,
    MAX_REASON,
    Bad,
    ReadOptions,
    Record,
    Records,
    UnreadableError,
    check_names,
    short_line,
)

DELIMITERS = ",;\t|"  # that are guessed
SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*')  # Excel's first line, which names the delimiter
ESCAPE = re.compile(r'\\(["\\])')
LINE_BYTES = 64  # of memory that a line takes beside its characters
MANY = 256  # rows that are handed over at once
SHOWN = 1000  # characters of a row that is rejected
SAMPLE = 20  # lines that decide about the delimiter
REREAD = 8  # how often the characters of a file may be read again, on average
LEAST = 2048  # characters of a row that is read to its end, however often that was in vain


def read_csv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Records | Bad]:
    """Read rows separated by commas, or by the delimiter of the options."""
    return _read(file, options, options.delimiter or ",")


def read_tsv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Records | Bad]:
    """Read rows separated by tabs, or by the delimiter of the options."""
    return _read(file, options, options.delimiter or "\t")


def _read(file: BinaryIO, options: ReadOptions, delimiter: str) -> Iterator[Record | Records | Bad]:
    text = open_text(file, options, newline="")
    rows = _Rows(text, delimiter, options.quotes or usual_quotes(delimiter), options.columns)
    check_names(rows.names, options.wanted)
    while True:
        first, many = rows.run()
        if many:
            yield Records([dict(zip(rows.names, row, strict=True)) for row in many], "line", first)
        elif isinstance(row := next(rows, None), Bad):
            yield row
        elif row is None:
            return
        else:
            fields = dict(zip(rows.names, row, strict=False))
            broken = [name for name, value in fields.items() if "\0" in value] if rows.has_nul else []
            if wanted := [name for name in broken if not options.wanted or name in options.wanted]:
                yield rows.bad("a NUL byte", wanted[0])
            else:
                yield Record(fields, f"line {rows.line}")


class _Rows:
    """The rows of a table behind its header, which have as many fields as it. Other rows are `Bad`.

    A quoted field may go over many lines. If its end is missing, the line on which the row begins is rejected, and the
    lines after it are read again.

    names: the columns.
    line: the line on which the row began.
    has_nul: whether the row has a NUL byte.
    is_cut: whether the text ended within a quoted field.
    """

    def __init__(self, text: io.TextIOBase, delimiter: str, quotes: str, columns: Sequence[str] = ()) -> None:
        self._delimiter, self._before_quote = delimiter, f'{delimiter} "'
        self._escape = "\\" if quotes == "escaped" else "\0"
        quoting: Any = csv.QUOTE_NONE if quotes == "letters" else csv.QUOTE_MINIMAL
        self._parse = partial(csv.reader, delimiter=delimiter, quoting=quoting, strict=True)
        self._lines = _Lines(text, delimiter, quotes == "escaped")
        self._strict, self._spaced = self._parse(self._lines), self._parse(self._lines, skipinitialspace=True)
        self.line, self.has_nul, self.is_cut = 1, False, False
        self.names: list[str] = []
        csv.field_size_limit(MAX_LINE)
        if any(map(SEPARATOR.fullmatch, self._lines.peek()[:1])):
            self._lines.skip(1)
        self.names = list(columns) or self._header()
        if columns and self._header_of(self._lines.peek()[:1]) == self.names:
            self._lines.skip(1)  # a header that says what the options say
        # Excel and others write empty columns behind the last one, but not in every row.
        self._least = max((number for number, name in enumerate(self.names, 1) if name), default=0)

    def _header(self) -> list[str]:
        row = self._parsed()
        while row == []:  # an empty line
            row = self._parsed()
        if row is None:
            return []
        if isinstance(row, Bad):
            raise UnreadableError(f"the header on {row.location} cannot be read: {row.reason}")
        if len(row) > MAX_COLUMNS:
            raise UnreadableError(f"more than {MAX_COLUMNS:,} columns")
        return [name.replace("\0", "").strip() for name in row]

    def _header_of(self, lines: list[str]) -> list[str]:
        try:
            return [name.strip() for name in next(self._parse(lines, skipinitialspace=True), [])]
        except csv.Error:
            return []

    def run(self) -> tuple[int, list[list[str]]]:
        """Return the number of the next line and the rows from there on which each fit on a line, or none.

        It is none if the next row needs a closer look.
        """
        lines = list(takewhile(lambda line: len(line) <= MAX_LINE, self._lines.peek()))
        many: list[list[str]] = []
        parsed = self._parse(lines)
        try:
            for row, line in zip(parsed, lines, strict=False):
                is_plain = len(row) == len(self.names) and parsed.line_num == len(many) + 1 and "\0" not in line
                if not is_plain or self._before_quote in line or self._escape in line:
                    break
                many.append(row)
        except csv.Error:
            pass
        return self._lines.skip(len(many)), many

    def __iter__(self) -> Iterator[list[str] | Bad]:
        return self

    def __next__(self) -> list[str] | Bad:
        while (row := self._parsed()) is not None:
            n_names = len(self.names)
            if isinstance(row, Bad) or self._least <= len(row) <= n_names:
                return row
            if len(row) > n_names and not any(row[n_names:]):
                return row[:n_names]
            if len(self._lines.taken) > 1 and self._has_swallowed_rows():
                return self._give_up("a quote that does not close")
            if len(row) > 1 or any(map(str.strip, row)):
                return self.bad(f"{len(row)} fields where {n_names} are expected")
        raise StopIteration

    def _parsed(self) -> list[str] | Bad | None:
        """Return the next row as it is parsed, of any width."""
        lines, reason = self._lines, ""
        self.line = lines.begin()
        try:
            row: list[str] = next(self._strict)
        except StopIteration:
            return None
        except _TooLongError:
            return self._give_up(f"a row of more than {lines.limit:,} characters")
        except csv.Error as error:
            row = []
            self.is_cut = self.is_cut or "unexpected end" in str(error)
            reason = "a quote that does not close" if "unexpected end" in str(error) else "a quote within quotes"
        if reason or (self._before_quote in lines.taken[0] and any(map(_is_quoted, row))):
            row = self._read_spaced() or row
            if reason and not row:
                return self._give_up(reason)
        self.has_nul = lines.has_nul
        return row

    def _read_spaced(self) -> list[str]:
        """Return the row with blanks around quoted fields, or nothing if it cannot be read so either."""
        n_taken = len(self._lines.taken)
        self._lines.put_back(0)
        self._lines.is_spaced = True
        try:
            row: list[str] = next(self._spaced)
            if not self.names or self._least <= len(row) <= len(self.names):
                return row
        except (csv.Error, StopIteration, _TooLongError):
            pass
        finally:
            self._lines.is_spaced = False
        self._lines.put_back(0)
        self._lines.take(n_taken)
        return []

    def _has_swallowed_rows(self) -> bool:
        """Return whether the row's lines behind the first are rows as well."""
        return all(line.count(self._delimiter) == len(self.names) - 1 for line in self._lines.taken[1:])

    def _give_up(self, reason: str) -> Bad:
        """Reject the row's first line. The others are read again."""
        delimiter = re.escape(self._delimiter)
        field = re.compile(rf'(?:"(?:[^"]|"")*+"|[^"{delimiter}][^{delimiter}]*+|){delimiter}')
        text, at, number = self._lines.taken[0][:SHOWN], 0, 0
        while found := field.match(text, at):
            at, number = found.end(), number + 1
        is_known = len(text) < SHOWN and number < len(self.names)
        self._lines.put_back(1)
        return self.bad(reason, self.names[number] if is_known else "")

    def bad(self, reason: str, column: str = "") -> Bad:
        """Return a `Bad` of the row, whose reason is in a column."""
        before = f"column {short_line(column, MAX_REASON)!r}: " if column else ""
        return Bad(before + reason, f"line {self.line}", self._lines.taken[0][:SHOWN].rstrip("\r\n"))


class _TooLongError(Exception):
    """A row has too many characters."""


class _Lines:
    """The lines of a text. Those that the row took so far can be put back.

    taken: these lines.
    has_nul: whether one of them has a NUL byte.
    is_spaced: whether to drop blanks behind quoted fields.
    """

    def __init__(self, text: io.TextIOBase, delimiter: str, has_escapes: bool) -> None:
        self._text, self._has_escapes = text, has_escapes
        self._blanks = re.compile(rf'(?<!")" +(?=[{re.escape(delimiter)}\r\n]|$)')
        self._ahead: deque[str] = deque()
        self._number, self._size, self._credit = 1, 0, 0
        self.taken: list[str] = []
        self.has_nul = self.is_spaced = False

    @property
    def limit(self) -> int:
        """The most characters of a row. They are fewer if many were read in vain, so that time is bounded."""
        return min(MAX_LINE, max(self._credit, LEAST))

    def begin(self) -> int:
        """Return the number of the next line, with which a row begins."""
        self._number += len(self.taken)
        self.taken, self._size, self.has_nul = [], 0, False
        return self._number

    def peek(self) -> list[str]:
        """Return some of the next lines, which stay."""
        size = 0
        while len(self._ahead) < MANY and size < BUFFER and (line := self._read()):
            self._ahead.append(line)
            size += len(line)
        return list(islice(self._ahead, MANY))

    def skip(self, n: int) -> int:
        """Skip some lines. Return the number of the first one."""
        first = self.begin()
        for _ in range(n):
            self._ahead.popleft()
        self._number += n
        return first

    def put_back(self, n_kept: int) -> None:
        """Put the lines of a row back, except the first ones."""
        self._ahead.extendleft(reversed(self.taken[n_kept:]))
        del self.taken[n_kept:]
        size = sum(map(len, self.taken)) + LINE_BYTES * len(self.taken)
        self._credit -= self._size - size
        self._size = size

    def take(self, n: int) -> None:
        """Take some lines again that were put back."""
        self.taken = [self._ahead.popleft() for _ in range(n)]
        self._size = sum(map(len, self.taken)) + LINE_BYTES * n

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not (line := self._ahead.popleft() if self._ahead else self._read()):
            raise StopIteration
        self._size += len(line) + LINE_BYTES
        if len(line) > MAX_LINE or (self._size > self.limit and self.taken):
            self.taken.append(line)
            raise _TooLongError
        self.taken.append(line)
        if "\0" in line:
            self.has_nul = True
        if self._has_escapes and "\\" in line:
            line = ESCAPE.sub(lambda found: '""' if found[1] == '"' else "\\", line)
        return self._blanks.sub('"', line) if self.is_spaced else line

    def _read(self) -> str:
        line = self._text.readline(MAX_LINE + 1)
        self._credit += REREAD * (len(line) + LINE_BYTES)
        end = line if len(line) > MAX_LINE else ""
        while end and not end.endswith(("\n", "\r")):  # the rest is skipped
            end = self._text.readline(BUFFER)
        return line


def _is_quoted(field: str) -> bool:
    return field.startswith(" ") and field.lstrip(" ").startswith('"')


def guess_delimiter(head: str, delimiter: str, options: ReadOptions) -> str:
    """Return the delimiter of a table by its first lines where they make it clear, else the given one."""
    lines = [line for line in head.splitlines() if line.strip()][:SAMPLE] or [""]
    if named := SEPARATOR.fullmatch(lines[0]):
        return named[1]
    others = [delimiter, *(other for other in DELIMITERS if other != delimiter)]
    if options.columns:
        return max(others, key=lambda each: sum(len(_split(line, each)) == len(options.columns) for line in lines))
    names = {each: [name.strip() for name in _split(lines[0], each)] for each in others}
    for each in others:
        if options.wanted and set(options.wanted) <= set(names[each]):
            return each
    if len(names[delimiter]) > 1:
        return delimiter
    return max(others, key=lambda each: min(len(names[each]), len(_split(lines[-1], each))))


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]


def guess_quotes(head: str, delimiter: str, options: ReadOptions) -> tuple[str, bool]:
    """Return what quotes mean in a table by its first lines, and whether that is doubtful.

    Where several readings fit, quotes surround fields, except in tab-separated text.
    """
    usual = usual_quotes(delimiter)
    if '"' not in head:
        return usual, False
    head = head[: head.rfind("\n") + 1] or head
    by_letters, n_letters = _fitting(head, delimiter, "letters", options)
    surrounding, n_surrounding = "fields", _fitting(head, delimiter, "fields", options)[1]
    if '\\"' in head and (n_escaped := _fitting(head, delimiter, "escaped", options)[1]) > n_surrounding:
        surrounding, n_surrounding = "escaped", n_escaped
    quoted = [field for row in by_letters for field in row if field.startswith('"')]
    whole = [field[1:-1] for field in quoted if _is_whole(field)]
    if usual == "fields":
        is_likely = n_letters > n_surrounding and 2 * len(whole) < len(quoted) and n_letters > 0.9 * head.count("\n")
        return ("letters", True) if is_likely else (surrounding, False)
    if n_surrounding > n_letters:
        return surrounding, False
    if n_surrounding < n_letters or not whole:
        return "letters", False
    has_pairs = any('"' in field and '"' not in field.replace('""', "").replace('\\"', "") for field in whole)
    columns = zip(*by_letters, strict=False)  # each with its name, which may have no quotes around it
    has_column = len(by_letters) > 2 and any(all(map(_is_whole, column[1:])) for column in columns)
    return (surrounding, False) if has_pairs or has_column else ("letters", True)


def _fitting(head: str, delimiter: str, quotes: str, options: ReadOptions) -> tuple[list[list[str]], int]:
    """Return the rows that fit, with the header, and how many more these are than others.

    It looks at the rows before a quoted field that does not end.
    """
    try:
        rows = _Rows(io.StringIO(head, newline=""), delimiter, quotes, options.columns)
    except UnreadableError:
        return [], 0
    whole = list(takewhile(lambda row: not rows.is_cut, rows))
    fitting = [*([] if options.columns else [rows.names]), *(row for row in whole if isinstance(row, list))]
    return fitting, 2 * len(fitting) - len(whole)


def _is_whole(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"'


def usual_quotes(delimiter: str) -> str:
    """Return what quotes mean in most tables with a delimiter."""
    return "letters" if delimiter == "\t" else "fields"
