"""The order in which a training reads its samples: a pure function of a seed and a position.

So a resumed run continues where it stopped, and SQL can tell which sample was read at which step.
"""

import numpy as np
from numpy.typing import NDArray

from pipelines.store.manifest import Ref


def order_seed(seed: int, base: Ref | None) -> int:
    """Return the seed of a training's order. It differs from the one that the base was trained in."""
    return seed + (int(base.digest[:6], 16) if base else 0)


def samples_at(positions: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return the numbers of the samples at some positions of a training that reads all n samples in every epoch."""
    epochs, places = np.divmod(positions, n)
    samples = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        samples[here] = permuted(places[here], n, seed, int(epoch))
    return samples


def permuted(places: NDArray[np.int64], n: int, seed: int, epoch: int, rounds: int = 6) -> NDArray[np.int64]:
    """Return the images of some places under a permutation of `range(n)` that (seed, epoch) define.

    A Feistel network over the smallest power of two that holds `n`, applied until the result is below `n`
    (Black and Rogaway 2002, Ciphers with arbitrary finite domains). This takes memory for `places` only.
    """
    bits = max((n - 1).bit_length(), 2)
    low = np.uint64(bits // 2)
    masks = np.uint64((1 << (bits // 2)) - 1), np.uint64((1 << (bits - bits // 2)) - 1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(rounds, np.uint64)
    result = places.astype(np.uint64)
    walking = np.ones(len(result), bool)
    while walking.any():
        value = result[walking]
        right, left = value & masks[0], value >> low
        for i, key in enumerate(keys):
            if i % 2:
                left ^= _mixed(right ^ key) & masks[1]
            else:
                right ^= _mixed(left ^ key) & masks[0]
        result[walking] = left << low | right
        walking = result >= n
    return result.astype(np.int64)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of MurmurHash3 (Appleby): every input bit changes every output bit."""
    value = (value ^ value >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ value >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ value >> np.uint64(33)
