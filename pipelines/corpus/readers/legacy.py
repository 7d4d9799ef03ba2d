"""The guess which of the encodings before Unicode some bytes are in.

chardet rates the encodings by the letters that follow each other in the languages that they were made for. Two facts
that it does not know improve the order: a capital does not follow a small letter in a word, nor does a sign stand in
one; and most western text is in Windows-1252.
"""

import codecs
import re
from collections.abc import Iterator

import chardet

USUAL = (
    *("cp932", "shift_jis", "shift_jis_2004", "euc_jp", "euc_jis_2004", "iso2022_jp", "iso2022_jp_2"),
    *("gb2312", "gbk", "gb18030", "big5", "big5hkscs", "cp950", "cp949", "euc_kr", "iso2022_kr", "cp874", "cp1258"),
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257"),
    *("iso8859-2", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-9", "iso8859-13"),
    *("koi8-r", "koi8-u", "mac-cyrillic", "mac-roman"),
    *("cp737", "cp850", "cp852", "cp857", "cp862", "cp866"),
)
NAMES = frozenset(codecs.lookup(name).name for name in USUAL)
SEVERAL_BYTES = ("big5", "cp9", "euc", "gb", "iso2022", "johab", "shift")  # of which a letter is made
WESTERN = frozenset("àâäçèéêëîïôöùûüœæåøñßáíóúãõìòÀÂÄÇÈÉÊËÎÏÔÖÙÛÜŒÆÅØÑÁÍÓÚÃÕ‘’“”„–—«»…€°·¿¡§£©®™ºª•´\xa0\xad")
RARE = frozenset("¤¦¨¬¯¶¸¹ÐÝÞðþý±³ˇ˘˙˛˝¥")
IN_WORDS = frozenset("‘’“”–—·…«»/\xa0\xad")
NOT_ASCII = re.compile("[^\0-\x7f]")
WESTERN_SHARE = 0.9  # of the best rate, with which Windows-1252 is preferred
CERTAIN = 0.13  # share of the best rate by which it exceeds the next one, where a guess is certain
FEW = 200  # bytes that are too few for a certain guess
MOST_LETTERS = 2000  # that are looked at
MOST_CANDIDATES = 12


def guess_legacy(sample: bytes) -> tuple[str | None, bool]:
    """Return the likeliest encoding of bytes, and whether that is doubtful. There is none if they are no text."""
    rates: dict[str, tuple[str, float]] = {}  # text -> encoding and rate
    for name, confidence in _rated(sample):
        text = sample.decode(name, "replace")
        if text not in rates:
            rates[text] = name, confidence * (1 if name.startswith(SEVERAL_BYTES) else 1 - odd_share(text))
            if len(rates) == MOST_CANDIDATES:
                break
    if not rates:
        return None, True
    ranked = sorted(rates.items(), key=lambda item: -item[1][1])
    best, (encoding, rate) = ranked[0]
    western = sample.decode("cp1252", "replace")
    if western in rates and is_western(western) and rates[western][1] >= WESTERN_SHARE * rate:
        best, (encoding, rate) = western, rates[western]
    others = [other for text, (_, other) in ranked if text != best]
    is_doubtful = len(sample) < FEW or (bool(others) and rate - others[0] < CERTAIN * rate)
    if encoding == "cp1252" and re.search("¤|(?<=[a-z])½(?=[a-z])", best):
        encoding = "iso8859-15"  # which has the sign of the euro and the oe there
    return encoding, is_doubtful


def _rated(sample: bytes) -> Iterator[tuple[str, float]]:
    for found in chardet.detect_all(sample, ignore_threshold=True, encoding_era=chardet.EncodingEra.ALL):
        name = codecs.lookup(found["encoding"]).name if found["encoding"] else ""
        if name in NAMES:
            yield name, found["confidence"]


def is_western(text: str) -> bool:
    """Return whether all letters of a text are those of western Europe, and none is at an odd place."""
    return set(NOT_ASCII.findall(text)) <= WESTERN and not odd_share(text)


def odd_share(text: str) -> float:
    """Return the share of the letters and signs outside ASCII that are at a place where text hardly has them."""
    n = odd = 0.0
    for found in NOT_ASCII.finditer(text):
        at = found.start()
        letter, before, after = text[at], text[at - 1] if at else " ", text[at + 1] if at + 1 < len(text) else " "
        n += 1
        odd += _oddness(letter, before, after)
        if n == MOST_LETTERS:
            break
    return min(odd / n, 1.0) if n else 0.0


def _oddness(letter: str, before: str, after: str) -> float:
    if letter == "\ufffd" or "\x80" <= letter < "\xa0" or "\ue000" <= letter <= "\uf8ff":
        return 1
    rare = 0.5 if letter in RARE else 0.0
    if not letter.isalpha():
        return 1 if before.isalpha() and after.isalpha() and letter not in IN_WORDS else rare
    if letter.isupper() and before.islower():
        return 1
    if letter.islower() and letter not in "ßªº" and before.isupper() and after.isupper():
        return 1
    if letter > "\u024f" and any(beside.isascii() and beside.isalpha() for beside in (before, after)):
        return 1  # Greek in a Latin word
    return rare
