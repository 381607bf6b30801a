"""A bag of words has the words of a caption that enough captions have."""

import numpy as np
import pytest

from stepwise.data.captions import bag_of_words

CAPTIONS = ("A red cat", "the red-brown dog, 2nd", "größer, RED", "cat cat")


def test_frequent_words_are_counted_once_a_caption_the_most_frequent_first():
    bags, vocabulary = bag_of_words(CAPTIONS, least=2)
    assert vocabulary == ("red", "cat")
    np.testing.assert_array_equal(bags, [[1, 1], [1, 0], [1, 0], [0, 1]])
    bags, vocabulary = bag_of_words(CAPTIONS, least=1)
    assert "größer" in vocabulary and "nd" in vocabulary and bags.sum() == 3 + 5 + 2 + 1


def test_too_few_words_are_refused_by_name():
    with pytest.raises(ValueError, match="captions: expected at least one caption, received none"):
        bag_of_words(())
    with pytest.raises(ValueError, match="captions: expected a word that 4 captions have"):
        bag_of_words(CAPTIONS)
