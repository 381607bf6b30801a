"""Captions as vectors: which words of a vocabulary each of them has."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from stepwise.data.images import require

WORD = re.compile(r"[^\W\d_]+")
"""A word: letters of any script, without digits."""


def bag_of_words(
    captions: Sequence[str], *, least: int = 4, vocabulary: Sequence[str] | None = None
) -> tuple[Float32[np.ndarray, "n V"], tuple[str, ...]]:
    """Return which words each caption has, 1 or 0, and the words.

    Args:
        captions: n texts.
        least: number of captions in which a word must occur.
        vocabulary: the words to look for, such as those of other captions; by default, all that
            occur in `least` captions.

    Returns:
        A matrix [n, V], and the V words, the most frequent first unless given. A caption without
        such a word has a row of zeros.

    Raises:
        DataError: if there are no captions, or no word is in `least` of them.
    """
    require(len(captions) > 0, "captions", "at least one caption", "none")
    sets = [set(WORD.findall(caption.lower())) for caption in captions]
    counts = Counter(word for words in sets for word in sorted(words))
    frequent = (word for word, count in counts.most_common() if count >= least)
    vocabulary = tuple(frequent if vocabulary is None else vocabulary)
    expected = f"a word that {least} captions have"
    received = f"{len(counts)} words in fewer; pass a smaller `least`"
    require(len(vocabulary) > 0, "captions", expected, received)
    place = {word: i for i, word in enumerate(vocabulary)}
    bags = np.zeros((len(captions), len(vocabulary)), np.float32)
    for row, words in zip(bags, sets, strict=True):
        row[[place[word] for word in words if word in place]] = 1
    return bags, vocabulary
