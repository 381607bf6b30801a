"""Captions as vectors: which words of a vocabulary each of them has."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from stepwise.data.images import require

LETTERS = "LM"
"""Categories of the characters in a word, by their first letter: letters and their marks."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: its runs of letters, without digits.

    Letters with marks count as equal however they are encoded (Unicode's form NFC).
    """
    normal = unicodedata.normalize("NFC", text.lower())
    spaced = (char if unicodedata.category(char)[0] in LETTERS else " " for char in normal)
    runs = "".join(spaced).split()
    return [run for run in runs if any(unicodedata.category(char)[0] == "L" for char in run)]


def bag_of_words(
    captions: Sequence[str], *, least: int = 4, vocabulary: Sequence[str] | None = None
) -> tuple[Float32[np.ndarray, "n V"], tuple[str, ...]]:
    """Return which words each caption has, 1 or 0, and the words.

    Args:
        captions: n texts.
        least: number of captions in which a word must occur.
        vocabulary: the words to look for, all different and as `words` returns them, such as those
            of other captions; by default, all that occur in `least` captions.

    Returns:
        A matrix [n, V], and the V words, the most frequent first unless given. A caption without
        such a word has a row of zeros.

    Raises:
        DataError: if there are no captions, or no word is in `least` of them; if the vocabulary is
            empty, or has a word twice or one that no text can have.
    """
    for name, value in (("captions", captions), ("vocabulary", vocabulary)):
        require(not isinstance(value, str), name, "a sequence of texts", "one text")
    require(len(captions) > 0, "captions", "at least one caption", "none")
    sets = [set(words(caption)) for caption in captions]
    if vocabulary is None:
        counts = Counter(word for each in sets for word in sorted(each))
        vocabulary = tuple(word for word, count in counts.most_common() if count >= least)
        expected = f"a word that {least} captions have"
        received = f"{len(counts)} words in fewer; pass a smaller `least`"
        require(len(vocabulary) > 0, "captions", expected, received)
    vocabulary = tuple(vocabulary)
    require(len(vocabulary) > 0, "vocabulary", "at least one word", "none")
    expected = "different words in lower case, without digits"
    wrong = [word for word in vocabulary if words(word) != [word]]
    wrong += [word for word, count in Counter(vocabulary).items() if count > 1]
    require(not wrong, "vocabulary", expected, ", ".join(map(repr, wrong[:3])))
    place = {word: i for i, word in enumerate(vocabulary)}
    bags = np.zeros((len(captions), len(vocabulary)), np.float32)
    for row, each in zip(bags, sets, strict=True):
        row[[place[word] for word in each if word in place]] = 1
    return bags, vocabulary
