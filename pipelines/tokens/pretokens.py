"""Byte-pair encoding of many documents at once: each distinct piece of text is encoded only once.

Byte-pair encodings first divide a text into pieces (words with the space before them, numbers, punctuation, white
space), and never merge across two pieces. Real text has few distinct pieces. A dozen vectorised comparisons divide a
chunk of documents, Arrow numbers the distinct pieces, tiktoken encodes the new ones, and the ids of all are gathered.
This creates no Python object for each piece in the text, copies nothing, and releases the interpreter.

The rules are those of `PATTERN`, GPT-2's (Radford et al. 2019). tiktoken's own regular expressions decide which
characters are letters, numbers and white space, since versions of Unicode differ.
"""

import threading
from collections.abc import Callable
from functools import cache
from itertools import repeat

import numpy as np
import pyarrow as pa
import tiktoken
from numpy.typing import NDArray

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""GPT-2's pattern as tiktoken writes it."""

MAX_CACHED_BYTES = 8 << 20  # of pieces and their index; above it, all are forgotten

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


class PieceEncoder:
    """An encoder of documents by their pieces, with a cache of the pieces' ids. Threads may share it."""

    def __init__(
        self, encode: Callable[[list[str]], NDArray[np.unsignedinteger]], end: int, dtype: type[np.unsignedinteger]
    ) -> None:
        """Make an encoder with an empty cache.

        Args:
            encode: encodes a list of pieces, and returns the ids of all, one after another, each followed by `end`.
            end: the id that ends a document, and occurs in none.
            dtype: the type of the ids to return.
        """
        self._encode, self._end, self._dtype = encode, end, dtype
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._rows: dict[bytes, int] = {b"": 0}  # of `_ids`, by piece; an empty piece ends a document
        self._ids = pa.array([[self._end]], pa.list_(pa.from_numpy_dtype(self._dtype)))
        self._cached_bytes = 0

    def __call__(self, texts: pa.StringArray) -> NDArray[np.unsignedinteger]:
        """Return the ids of documents, one after another, each with its end."""
        pieces = divide(texts).dictionary_encode()
        ids = self._ids_of(pieces.dictionary.to_pylist())
        return ids.take(pieces.indices).flatten().to_numpy()

    def _ids_of(self, pieces: list[bytes]) -> pa.ListArray:
        with self._lock:
            rows = np.fromiter(map(self._rows.get, pieces, repeat(-1)), np.int64, len(pieces))
            unknown = np.flatnonzero(rows < 0)
            if len(unknown):
                new = [pieces[place] for place in unknown]
                rows[unknown] = len(self._rows) + np.arange(len(new))
                self._rows.update(zip(new, rows[unknown].tolist(), strict=True))
                self._ids = pa.concat_arrays([self._ids, self._encode_pieces(new)])
                self._cached_bytes += sum(map(len, new)) + 128 * len(new)
            found = self._ids.take(pa.array(rows))
            if self._cached_bytes > MAX_CACHED_BYTES:
                self._forget()
        return found

    def _encode_pieces(self, pieces: list[bytes]) -> pa.ListArray:
        ids = self._encode([piece.decode() for piece in pieces])
        ends = ids == self._end
        offsets = np.flatnonzero(ends) - np.arange(len(pieces))
        values = pa.array(ids[~ends].astype(self._dtype))
        return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], offsets]), pa.int32()), values)


def divide(texts: pa.StringArray) -> pa.BinaryArray:
    """Return the pieces of documents, as views of their text, with an empty piece after each document."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    ends = offsets[1:] - offsets[:1]
    if not len(ends) or not ends[-1]:
        return pa.array([b""] * len(ends), pa.binary())
    data = texts.buffers()[2].slice(offsets[0], ends[-1])
    starts = _starts(np.frombuffer(data, np.uint8), data, np.concatenate([[0], ends]))
    cuts = np.insert(starts, np.searchsorted(starts, ends), ends)
    cuts = np.append(cuts, len(data)).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(cuts) - 1, [None, pa.py_buffer(cuts), data])


def _starts(text: Bytes, data: pa.Buffer, bounds: Places) -> Places:
    """Return the bytes at which a piece starts, of texts between some bounds."""
    if text.max() < 128:
        classes = np.frombuffer(bytes(memoryview(data)).translate(_ascii()), np.uint8)
        return np.flatnonzero(_begins(text, classes, bounds))
    codes = np.frombuffer(str(data, "utf-8").encode("utf-32-le"), np.uint32)
    firsts = np.flatnonzero((text & 0xC0) != 0x80)  # the first byte of each character
    begins = _begins(codes, _table(int(codes.max() >> 16) + 1)[codes], np.searchsorted(firsts, bounds))
    return firsts[begins]


LETTER, NUMBER, WHITE, OTHER = 1, 2, 3, 0
SPACE, APOSTROPHE = ord(" "), ord("'")


def _begins(codes: NDArray[np.unsignedinteger], classes: Bytes, bounds: Places) -> NDArray[np.bool_]:
    """Return whether a piece starts at each character, given code points, classes and the bounds of the texts."""
    change = classes[1:] != classes[:-1]
    begins = np.ones(len(codes), bool)
    # A piece is a run of one class, with the space before it.
    np.logical_and(change, codes[:-1] != SPACE, out=begins[1:])
    # The last white space before another class starts a piece: with the run after it, or alone.
    last = change & (classes[:-1] == WHITE)
    inner = bounds[(bounds > 0) & (bounds < len(codes))]
    last[inner - 1] = False
    begins[:-1] |= last
    begins[inner] = True
    # An apostrophe that starts a piece includes certain letters after it.
    places = np.flatnonzero(codes == APOSTROPHE)
    places = places[begins[places]]
    room = bounds[np.searchsorted(bounds, places, side="right")] - places
    first, second = (codes.take(places + i, mode="clip") for i in (1, 2))
    one = np.isin(first, [ord(letter) for letter in "sdmt"]) & (room >= 2)
    pairs = [(first == ord(a)) & (second == ord(b)) for a, b in ("ll", "ve", "re")]
    two = np.logical_or.reduce(pairs) & (room >= 3)
    begins[places[one | two] + 1] = False
    ends = np.concatenate([places[one] + 2, places[two] + 3])
    begins[ends[ends < len(codes)]] = True
    return begins


# The class of every character


@cache
def _table(n_planes: int) -> Bytes:
    return np.concatenate([_plane(plane) for plane in range(n_planes)])


@cache
def _plane(plane: int) -> Bytes:
    return _classify(range(plane << 16, (plane + 1) << 16))


@cache
def _ascii() -> bytes:
    return _classify(range(128)).tobytes() + bytes(128)


def _classify(codes: range) -> Bytes:
    """Return the classes of code points: tiktoken looks for each class in a text of all of them."""
    table = np.full(len(codes), OTHER, np.uint8)
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)  # without surrogates
    for number, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (WHITE, r"\s+")):
        single = {bytes([byte]): byte for byte in range(256)}
        finder = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=single, special_tokens={})
        found = finder.decode(finder.encode_ordinary(text))
        table[np.frombuffer(found.encode("utf-32-le"), np.uint32).astype(np.int64) - codes.start] = number
    return table
