"""Damage to files: what disks, people and attackers do to them."""

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

Draw = random.Random


def flip(content: bytes, draw: Draw, first: float = 0, last: float = 1, n: int = 1) -> bytes:
    """Flip bits between two places, which are given as shares of the content."""
    damaged = bytearray(content)
    for _ in range(n if content else 0):
        place = int((first + (last - first) * draw.random()) * len(damaged))
        damaged[min(place, len(damaged) - 1)] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def overwrite(content: bytes, draw: Draw) -> bytes:
    """Write a number over four or eight bytes, such as an offset, a length or a size."""
    number = draw.choice([0, 1, -1, 7, 1 << 31, (1 << 31) - 1, 1 << 40, -(1 << 40), 1 << 62, len(content)])
    raw = struct.pack("<q", number)[: draw.choice([4, 8])]
    at = draw.randrange(max(len(content) - 8, 1)) & ~3
    return content[:at] + raw + content[at + len(raw) :]


def change_digit(content: bytes, draw: Draw) -> bytes:
    """Change a digit of a text, so that it stays what it is and says something else."""
    places = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return flip(content, draw)
    at = draw.choice(places)
    return content[:at] + bytes([48 + (content[at] - 47) % 10]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, Draw], bytes | None]] = {
    "one bit": flip,
    "many bits": lambda content, draw: flip(content, draw, n=50),
    "bits at the start": lambda content, draw: flip(content, draw, 0, 0.05, 3),
    "bits at the end": lambda content, draw: flip(content, draw, 0.9, 1, 3),
    "a number": overwrite,
    "a digit": change_digit,
    "random bytes": lambda content, draw: draw.randbytes(len(content)),
    "other length": lambda content, draw: draw.randbytes(draw.randrange(2 * len(content) + 2)),
    "cut": lambda content, draw: content[: draw.randrange(len(content) or 1)],
    "longer": lambda content, draw: content + content[-draw.randrange(1, 64) :],
    "empty": lambda content, draw: b"",
    "a folder": lambda content, draw: None,
}
"""Kinds of damage: content to other content, or to None for a folder in the file's place."""


def put(path: Path, content: bytes | None) -> None:
    """Put content, or a folder, in the place of a file."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
