"""What counting alone achieves: the unigram and the bigram model, in bits per byte.

A network that does not beat the bigram model has learned nothing about its context beyond the last byte.
"""

from collections.abc import Iterable

import numpy as np

from jobs.data.shards import Array
from jobs.model.contract import VOCABULARY


def bits_per_byte(training: Iterable[Array], windows: Array) -> tuple[float, float]:
    """(unigram, bigram) cross-entropy in bits of each window's bytes from the second on.

    training: streams of bytes to count in; windows: shape (n, context + 1), uint8. The bigram model falls
    back on the unigram model with the weight of one observation, so that an unseen pair costs a finite price.
    """
    pairs = np.zeros(VOCABULARY * VOCABULARY, dtype=np.int64)
    for stream in training:
        pairs += np.bincount(
            stream[:-1].astype(np.int32) * VOCABULARY + stream[1:], minlength=VOCABULARY * VOCABULARY
        )
    counts = pairs.reshape(VOCABULARY, VOCABULARY).astype(np.float64)
    singles = counts.sum(axis=0) + 1
    unigram = singles / singles.sum()
    bigram = (counts + unigram) / (counts.sum(axis=1, keepdims=True) + 1)
    before, after = windows[:, :-1], windows[:, 1:]
    return float(-np.log2(unigram[after]).mean()), float(-np.log2(bigram[before, after]).mean())
