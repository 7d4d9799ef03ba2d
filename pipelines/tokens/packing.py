"""Packing of pieces of unequal length into windows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def best_fit(lengths: Sequence[int] | NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Pack pieces into windows, the longest first, each into the fullest window that has room for it.

    This takes at most 11/9 of the fewest windows, and a few (Johnson 1973, Near-optimal bin packing algorithms).
    The bits of one integer are the set of rooms left in open windows, so one operation finds the tightest fit.

    Returns:
        The numbers of the pieces in each window, in order.
    """
    windows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    for piece in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        length = int(lengths[piece])
        fitting = rooms >> length << length
        if fitting:
            room = (fitting & -fitting).bit_length() - 1
            window = by_room[room].pop()
            windows[window].append(piece)
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, window = capacity, len(windows)
            windows.append([piece])
        if left := room - length:
            by_room[left].append(window)
            rooms |= 1 << left
    return [sorted(window) for window in windows]
