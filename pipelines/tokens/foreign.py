"""Reading somebody else's `tokenizer.json`: it gives the ids of its own library, or is refused.

A file is tried on texts when it is read. It is refused if a text does not come back from its ids, since a corpus would
lose text in silence. The sentence names the part of the file that changes text.

tiktoken encodes if its ids are the same, since it is faster. Byte pairs give the same ids if

- the merges are in the order of the ids of what they make, as tiktoken merges,
- each token is made by the merges from its bytes, or each of its divisions into two tokens is a merge, and
- the two engines divide texts at the same places.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any
from unicodedata import normalize

import tokenizers

from pipelines.tokens.byte_pairs import LETTER_OF_BYTE, BytePairTokenizer, merges_of
from pipelines.tokens.library import LibraryTokenizer, parts
from pipelines.tokens.pretokens import PATTERN
from pipelines.tokens.tokenizer import Refused, Tokenizer

TEXTS = (
    "The mill grinds; it's 1,234.50 years old, isn't it? WE'LL SEE! They’ve said: don't. Cafe\u0301, naïve, straße.",
    "  two  blanks,   three, and at the end  ",
    "tabs\tand\n\nline breaks\r\n    indented(x) == [1, 2] != {'a': 0x1F};\n",
    "Größe ÇA İstanbul ﬁn Ⅷ ½ ² № ㎏ ＡＢ ｶﾞ",
    "日本語と中文。ภาษาไทย हिन्दी العربية עברית русский ελληνικά 한국어 Việt",
    "🙂👩‍👩‍👧🇩🇪 ☃ a\u200bb\u00a0c\u3000d\ufeffe\u0085\u2028\x00\x07\x7f\x1b[0m\U0010ffff",
    "000123456789 3.14 2026-11-28 ١٢٣ 1234567 <0x41> [UNK] <unk> &amp; ## </w> @@",
    "https://example.org/a_b?c=d&e=f#g camelCaseHTTPServer snake_case <b>HTML</b>",
    "a" * 300 + "=" * 80 + " " * 200 + "x" + "ab" * 100 + "\n" * 50,
    *("\n", " ", "\n\n \n x", "x \n", "'s", " 's", "a", ""),
)
BYTES = [*range(0xC0), *range(0xC2, 0xF5)]  # that occur in UTF-8
# Characters of every kind, but few of the many ideographs, syllables and private ones.
SPARSE = (range(0x800), range(0x800, 0x3400, 5), range(0x3400, 0xD800, 97), range(0xE000, 0x10000, 23))
CHARACTERS = [chr(code) for code in chain(*SPARSE, range(0x10000, 0x1FC00, 29), range(0x20000, 0x30000, 997))]


def read_foreign(value: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of a file's fields.

    Raises:
        Refused: text would be lost, or the ids would not always be the same.
        ValueError: the fields are not those of a tokenizer.
    """
    model = value["model"]
    if model["type"] not in ("BPE", "Unigram"):
        raise Refused(f"its model {model['type']} would lose letters that it does not know")
    if model.get("dropout"):
        raise Refused("its model has a dropout, so a text would have other ids each time; null turns it off")
    tokenizer = LibraryTokenizer(value)
    for token in value.get("added_tokens", ()):
        if tokenizer.library.token_to_id(token["content"]) != token["id"]:
            raise ValueError(f"the added token {token['content']!r} cannot have the id {token['id']}")
    _check_bytes(tokenizer)
    added = [tokenizer.token_bytes[token["id"]].decode("utf-8", "replace") for token in tokenizer.value["added_tokens"]]
    for text in (*TEXTS, *(f"a {token} {token}b" for token in added)):
        _check_text(tokenizer, text)
    return _fast(tokenizer) or tokenizer


def _check_bytes(tokenizer: LibraryTokenizer) -> None:
    """Check that the model has a token for each byte, so that it can write every text."""
    model, known = tokenizer.value["model"], tokenizer.library.get_vocab(with_added_tokens=False)
    if tokenizer.is_byte_level:
        complete = all(chr(LETTER_OF_BYTE[byte]) in known for byte in BYTES)
    else:
        complete = model.get("byte_fallback") and all(f"<0x{byte:02X}>" in known for byte in BYTES)
    if not complete:
        raise Refused(f"its model {model['type']} lacks tokens for bytes, and would lose letters that it does not know")


def _check_text(tokenizer: LibraryTokenizer, text: str) -> None:
    """Check that a text comes back from its ids. It may be composed (NFC), and have a space before it."""
    decoded = tokenizer.decode(tokenizer.encode(text))
    if _is_kept(text, decoded):
        return
    library, value = tokenizer.library, tokenizer.value
    plain = library.normalizer.normalize_str(text) if library.normalizer else text
    pieces = library.pre_tokenizer.pre_tokenize_str(plain) if library.pre_tokenizer else []
    types = {name: [part["type"] for part in parts(value, name)] for name in ("normalizer", "pre_tokenizer", "decoder")}
    if "ByteLevel" not in types["normalizer"] and not _is_kept(text, plain.replace("▁", " ")):
        name = "normalizer"
    elif pieces and sum(end - start for _, (start, end) in pieces) < len(plain):
        name = "pre_tokenizer"
    else:
        raise Refused(f"its model {value['model']['type']} changes text: {_difference(text, decoded)}")
    raise Refused(f"its {name} {', '.join(types[name])} changes text: {_difference(text, decoded)}")


def _is_kept(text: str, found: str) -> bool:
    return bool({text, normalize("NFC", text)} & {found, found.removeprefix(" ")})


def _difference(text: str, found: str) -> str:
    found = found if text.startswith(" ") else found.removeprefix(" ")
    at = next((i for i, (a, b) in enumerate(zip(text, found, strict=False)) if a != b), min(len(text), len(found)))
    start = max(0, at - 3)
    return f"{text[start : at + 8]!r} becomes {found[start : at + 8]!r}"


def _fast(tokenizer: LibraryTokenizer) -> BytePairTokenizer | None:
    """Return the tokenizer that tiktoken runs with the same ids, or None."""
    value, model, pattern = tokenizer.value, tokenizer.value["model"], _pattern(tokenizer.value["pre_tokenizer"])
    has_suffixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    if pattern is None or value["normalizer"] or model["type"] != "BPE" or has_suffixes:
        return None
    if len(tokenizer.special) < len(value["added_tokens"]) or not _merges_like_tiktoken(tokenizer):
        return None
    try:
        fast = BytePairTokenizer.from_spellings(pattern, model["vocab"], tokenizer.special)
        return fast if _is_same(fast, tokenizer) else None
    except ValueError:  # the vocabulary lacks a byte, or tiktoken lacks something of the pattern
        return None


def _pattern(value: dict[str, Any] | None) -> str | None:
    """Return the regular expression that divides texts into pieces of bytes, or None if there is more to do."""
    match value:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": behavior, "invert": bool(invert)},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if (behavior, invert) in (("Isolated", False), ("Removed", True)):
            return pattern
    return None


def _merges_like_tiktoken(tokenizer: LibraryTokenizer) -> bool:
    model, ids = tokenizer.library.model, tokenizer.value["model"]["vocab"]
    merges, ignores = tokenizer.value["model"]["merges"], model.ignore_merges
    spelled = [token for token in ids if token not in tokenizer.special]
    model.ignore_merges = False
    made = tokenizers.Tokenizer(model).encode_batch_fast(spelled, add_special_tokens=False)
    model.ignore_merges = ignores
    not_made = {token for token, found in zip(spelled, made, strict=True) if found.ids != [ids[token]]}
    in_order = all(first <= second for first, second in pairwise(ids[a + b] for a, b in merges))
    known = set(map(tuple, merges)) if not_made else set()
    return in_order and (ignores or not not_made) and known.issuperset(map(tuple, merges_of(not_made, ids)))


def _is_same(fast: BytePairTokenizer, tokenizer: LibraryTokenizer) -> bool:
    every = "".join(f"{each}1 {each}a" for each in CHARACTERS)
    texts = [*TEXTS, *(every[at : at + 10_000] for at in range(0, len(every), 10_000))]
    return all(fast.encode(text).tolist() == tokenizer.encode(text).tolist() for text in texts)
