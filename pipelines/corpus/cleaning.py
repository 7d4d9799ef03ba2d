"""Cleaning: changes to a document's text before the rules are applied, in the order that the config declares.

`CLEANERS` is the table. A cleaner takes a text and returns it cleaned, with the number of its changes.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Literal

import ftfy
from ftfy import fixes

from pipelines.corpus.composition import compose

Cleaner = Callable[[str], tuple[str, int]]
CleanerName = Literal["unicode", "whitespace", "boilerplate", "citations", "c4_lines", "redact"]

WHITESPACE = (
    (re.compile(r"(?<![^\S\n])[^\S\n]++(?=\n|\Z)"), ""),  # possessive, so that each run is scanned once
    (re.compile(r"(?<=\S)[^\S\n]{2,}|(?<=\S)[^\S\n ]"), " "),
    (re.compile(r"\n{3,}"), "\n\n"),
)
BOILERPLATE = re.compile(
    r"javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.IGNORECASE
)
CITATION = re.compile(r"\[(?:\d{1,4}|edit|citation needed)\]")
SENTENCE_ENDS = (".", "!", "?", '"', "”", "’")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
IP = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)"  # version 4
    r"|(?<![\w:])(?=[0-9a-fA-F:]*[0-9a-fA-F]:)[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}"  # version 6
    r"(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:]|\.\d)"  # may end in one of version 4
)
LINES = re.compile(r"[^\n]{0,999999}+\n|[^\n]{1,1000000}+")  # a line, or a part of a very long one
ROUNDS = 16  # of repairs to a line: as many layers as a text may be mangled in
REPAIRS: tuple[Callable[[str], str], ...] = (
    ftfy.fix_encoding,
    fixes.fix_c1_controls,
    fixes.fix_latin_ligatures,
    fixes.fix_character_width,
    fixes.fix_line_breaks,
    fixes.fix_surrogates,
    fixes.remove_terminal_escapes,
    fixes.remove_control_chars,
    compose,
)


def clean(text: str, names: Sequence[CleanerName]) -> tuple[str, dict[str, int]]:
    """Apply cleaners one after another. Return the text and the number of changes of each cleaner."""
    counts: dict[str, int] = {}
    for name in names:
        text, count = CLEANERS[name](text)
        if count:
            counts[name] = count
    return text, counts


def repair_unicode(text: str) -> tuple[str, int]:
    """Repair text that was decoded with the wrong encoding, by ftfy (Speer 2019). Counts documents.

    This is `ftfy.fix_text` without its repair of quotes, and with a bound on its rounds. An entity in an entity costs
    a round, and some text has a hundred thousand: `&amp;amp;amp;`. A line with `<`, and all after it, may be HTML, so
    their entities stay.
    """
    lines, has_entities = [], True
    for line in LINES.findall(text):
        has_entities = has_entities and "<" not in line
        lines.append(_repair(line, has_entities))
    fixed = "".join(lines)
    return fixed, int(fixed != text)


def _repair(line: str, has_entities: bool) -> str:
    for _ in range(ROUNDS):
        before = line
        if has_entities:
            line = fixes.unescape_html(line)
        for repair in REPAIRS:
            line = repair(line)
        if line == before:
            break
    return line


def tidy_whitespace(text: str) -> tuple[str, int]:
    """Leave one space between words, none at line ends, and one blank line between paragraphs. Indentation stays."""
    count = 0
    for pattern, replacement in WHITESPACE:
        text, n = pattern.subn(replacement, text)
        count += n
    return text, count


def drop_boilerplate(text: str) -> tuple[str, int]:
    """Drop lines about scripts, cookies and policies, by the phrases of C4 (Raffel et al. 2020). Counts lines."""
    return _keep_lines(text, lambda line: not BOILERPLATE.search(line))


def drop_citations(text: str) -> tuple[str, int]:
    """Drop Wikipedia's marks such as [1] and [citation needed], as C4 does (Raffel et al. 2020). Counts marks."""
    return CITATION.subn("", text)


def keep_sentences(text: str) -> tuple[str, int]:
    """Keep lines of five words or more that end like a sentence, as C4 does (Raffel et al. 2020). Counts lines."""
    return _keep_lines(
        text, lambda line: not line.strip() or (line.rstrip().endswith(SENTENCE_ENDS) and len(line.split()) >= 5)
    )


def _keep_lines(text: str, wanted: Callable[[str], bool]) -> tuple[str, int]:
    lines = text.split("\n")
    kept = [line for line in lines if wanted(line)]
    return "\n".join(kept), len(lines) - len(kept)


def redact(text: str) -> tuple[str, int]:
    """Replace e-mail and IP addresses by [EMAIL] and [IP]. Counts addresses."""
    count = 0
    if "@" in text:
        text, count = EMAIL.subn("[EMAIL]", text)

    def ip(match: re.Match[str]) -> str:
        nonlocal count
        try:
            ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        count += 1
        return "[IP]"

    return IP.sub(ip, text), count


CLEANERS: dict[str, Cleaner] = {
    "unicode": repair_unicode,
    "whitespace": tidy_whitespace,
    "boilerplate": drop_boilerplate,
    "citations": drop_citations,
    "c4_lines": keep_sentences,
    "redact": redact,
}
