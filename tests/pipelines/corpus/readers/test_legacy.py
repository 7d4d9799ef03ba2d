"""Encodings before Unicode, on real text: what is decoded to other letters is doubtful."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import yaml

from pipelines.corpus.readers.encoding import guess_encoding

WESTERN = ("cp1252", "iso8859-1", "iso8859-15", "mac-roman", "cp850")
ENCODINGS = {
    **dict.fromkeys(("french", "german", "italian", "spanish", "portuguese", "swedish"), WESTERN),
    "Polish": ("cp1250", "iso8859-2", "cp852"),
    "turkish": ("cp1254", "iso8859-9", "cp857"),
    "russian": ("cp1251", "koi8-r", "iso8859-5", "cp866", "mac-cyrillic"),
    "Greek": ("cp1253", "iso8859-7"),
    "chinese": ("gb2312", "gbk", "gb18030", "utf-16-le", "utf-16-be"),
    "traditionalchinese": ("big5", "cp950", "utf-16-le", "utf-32-be"),
    "japanese": ("shift_jis", "cp932", "euc_jp", "iso2022_jp", "utf-16-le"),
}


def package(name: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec and spec.origin
    return Path(spec.origin).parent.joinpath(*parts)


def text_in(language: str) -> str:
    """Return conversations in a language, or its frequent words where no package has conversations."""
    if language[0].isupper():
        return " ".join(package("justext", "stoplists", f"{language}.txt").read_text("utf-8").split())
    files = sorted(package("chatterbot_corpus", "data", language).glob("*.yml"))
    parsed = [yaml.load(file.read_text("utf-8"), yaml.CSafeLoader) for file in files]
    turns = [str(turn) for each in parsed for talk in each.get("conversations") or () for turn in talk]
    return "\n".join(turns)


def pieces(text: str, encoding: str, size: int) -> Iterator[bytes]:
    letters = text.encode(encoding, "ignore").decode(encoding)
    start = 0
    while start < len(letters):
        end = start + 1
        while end < len(letters) and len(letters[start:end].encode(encoding)) < size:
            end += max(1, (size - len(letters[start:end].encode(encoding))) // 4)
        piece = letters[start:end].encode(encoding)
        start = end
        if (len(piece) >= size and not piece.isascii()) or encoding == "iso2022_jp":
            yield piece


def wrong_guesses(size: int, most: int) -> tuple[int, list[tuple[str, str, str, bool]]]:
    n, wrong = 0, []
    for language, encodings in ENCODINGS.items():
        text = text_in(language)
        for encoding in encodings:
            for piece in islice(pieces(text, encoding, size), most):
                n += 1
                guess, is_doubtful = guess_encoding(piece)
                if piece.decode(guess, "replace") != piece.decode(encoding):
                    wrong.append((language, encoding, guess, is_doubtful))
    return n, wrong


def check(size: int, most: int, least: int) -> None:
    n, wrong = wrong_guesses(size, most)
    assert n >= least
    assert len(wrong) <= 0.02 * n, wrong
    assert all(is_doubtful for *_, is_doubtful in wrong), wrong


def test_real_text_of_500_bytes_is_decoded_or_doubtful() -> None:
    check(500, 2, 90)


@pytest.mark.slow
@pytest.mark.parametrize("size", [500, 1000, 3000])
def test_much_real_text_is_decoded_or_doubtful(size: int) -> None:
    check(size, 15, 250)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Café für 5 €", "cp1252"), ("L’été à Nîmes", "cp1252"), ("déjà", "cp1252"), ("naïve café", "cp1252")],
)
def test_few_western_words_are_windows_1252_and_doubtful(text: str, encoding: str) -> None:
    assert guess_encoding(text.encode(encoding)) == (encoding, True)


def test_quotes_and_dashes_alone_are_windows_1252() -> None:
    assert guess_encoding(("He said “no” – it’s fine… " * 9).encode("cp1252")) == ("cp1252", False)


def test_run_of_zeros_in_a_text_is_not_binary() -> None:
    assert guess_encoding(b'{"text":"a"}\n' + bytes(4096) + b'\n{"text":"b"}\n') == ("utf-8", False)


def test_three_accents_in_long_english_text_are_not_damage() -> None:
    text = "The mill at the river grinds slowly, but it grinds well. " * 1000
    text = (
        text.replace("slowly", "à la carte", 1) + "The naïve miller drinks coffee in a café, as the résumé says.\n" * 3
    )
    encoding, _ = guess_encoding(text.encode("cp1252"))
    assert encoding == "cp1252"


def test_damaged_utf8_stays_utf8_and_a_mixture_is_doubtful() -> None:
    text = ("Die Mühle mahlt für die Größe schön. " * 40).encode()
    damaged = text[:300] + b"\xff" + text[300:]
    assert guess_encoding(damaged) == ("utf-8", False)
    assert guess_encoding(text[:101])[0] == "utf-8"  # which ends within a letter
    latin = "Die Mühle mahlt für die Größe schön. ".encode("cp1252") * 20
    assert guess_encoding(text + latin) == ("utf-8", True)
    assert guess_encoding(text[: len(text) // 5] + 3 * latin) == ("cp1252", True)


def test_nul_byte_makes_text_neither_binary_nor_utf16() -> None:
    for content in (b"text\ngood\nb\0ad\nfine\n", b"a\0b", "Größe\0 schön".encode(), b"id,text\n1,a\0\n2,b\n"):
        assert guess_encoding(content) == ("utf-8", False)
    assert guess_encoding("Die Größe der Mühle\0 ist schön. ".encode("cp1252") * 9)[0] == "cp1252"


def test_terminal_colours_are_no_japanese() -> None:
    assert guess_encoding(b"\x1b[31merror\x1b[0m: it failed\n" * 30) == ("utf-8", False)
