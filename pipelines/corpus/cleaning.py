"""Cleaning: what may be done to a document's text before it is judged, in the order that the config declares.

`CLEANERS` is the table; a cleaner takes a text and returns it cleaned, with how many things it changed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Literal

import ftfy

Cleaner = Callable[[str], tuple[str, int]]


CleanerName = Literal["unicode", "whitespace", "boilerplate", "citations", "c4_lines", "redact"]


FIXES = ftfy.TextFixerConfig(uncurl_quotes=False, unescape_html="auto", normalization="NFC")


def clean(text: str, names: Sequence[CleanerName]) -> tuple[str, dict[str, int]]:
    """Apply cleaners one after another; returns the text and how many things each of them changed."""
    counts: dict[str, int] = {}
    for name in names:
        text, count = CLEANERS[name](text)
        if count:
            counts[name] = count
    return text, counts


def repair_unicode(text: str) -> tuple[str, int]:
    """Mend text that was decoded with the wrong encoding, and what else ftfy mends (Speer 2019); counts documents."""
    fixed = ftfy.fix_text(text, FIXES)
    return fixed, int(fixed != text)


def tidy_whitespace(text: str) -> tuple[str, int]:
    """One space between words, none at line ends, one blank line between paragraphs; indentation stays."""
    count = 0
    for pattern, replacement in WHITESPACE:
        text, n = pattern.subn(replacement, text)
        count += n
    return text, count


WHITESPACE = (
    (re.compile(r"(?<![^\S\n])[^\S\n]++(?=\n|\Z)"), ""),  # looks at each run once, however long
    (re.compile(r"(?<=\S)[^\S\n]{2,}|(?<=\S)[^\S\n ]"), " "),
    (re.compile(r"\n{3,}"), "\n\n"),
)


def drop_boilerplate(text: str) -> tuple[str, int]:
    """Drop lines about scripts, cookies and policies, by the phrases of C4 (Raffel et al. 2020); counts lines."""
    return _keep_lines(text, lambda line: not BOILERPLATE.search(line))


BOILERPLATE = re.compile(
    r"javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.IGNORECASE
)


def drop_citations(text: str) -> tuple[str, int]:
    """Drop Wikipedia's marks such as [1] and [citation needed], as C4 does (Raffel et al. 2020); counts marks."""
    return CITATION.subn("", text)


CITATION = re.compile(r"\[(?:\d{1,4}|edit|citation needed)\]")


def keep_sentences(text: str) -> tuple[str, int]:
    """Keep lines of five words or more that end like a sentence, as C4 does (Raffel et al. 2020); counts lines."""
    return _keep_lines(
        text, lambda line: not line.strip() or (line.rstrip().endswith(SENTENCE_ENDS) and len(line.split()) >= 5)
    )


SENTENCE_ENDS = (".", "!", "?", '"', "”", "’")


def _keep_lines(text: str, wanted: Callable[[str], bool]) -> tuple[str, int]:
    lines = text.split("\n")
    kept = [line for line in lines if wanted(line)]
    return "\n".join(kept), len(lines) - len(kept)


def redact(text: str) -> tuple[str, int]:
    """Put [EMAIL] and [IP] for e-mail and IP addresses."""
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


EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")


IP = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)"  # version 4
    r"|(?<![\w:])(?=[0-9a-fA-F:]*[0-9a-fA-F]:)[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}"  # version 6
    r"(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:]|\.\d)"  # which may end in one of version 4
)


CLEANERS: dict[str, Cleaner] = {
    "unicode": repair_unicode,
    "whitespace": tidy_whitespace,
    "boilerplate": drop_boilerplate,
    "citations": drop_citations,
    "c4_lines": keep_sentences,
    "redact": redact,
}
