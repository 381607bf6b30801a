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


def test_a_word_has_letters_and_marks_of_any_script_in_any_encoding():
    bags, vocabulary = bag_of_words(["café x²", "cafe\u0301 ½ हिन्दी"], least=2)
    assert vocabulary == ("café",) and bags.tolist() == [[1], [1]]
    assert set(bag_of_words(["हिन्दी x² ⅷ"], least=1)[1]) == {"हिन्दी", "x"}
    assert set(bag_of_words(["I \u2764\ufe0f NY"], least=1)[1]) == {"i", "ny"}


def test_a_vocabulary_of_other_captions_can_be_given():
    bags, vocabulary = bag_of_words(["a dog", "none"], vocabulary=["dog", "cat"])
    assert vocabulary == ("dog", "cat") and bags.tolist() == [[1, 0], [0, 0]]
    for wrong, received in (
        (["dog", "dog"], "'dog'"),
        (["Dog"], "'Dog'"),
        (["a dog"], "'a dog'"),
        ([], "none"),
        ("dog", "one text"),
    ):
        with pytest.raises(ValueError, match=f"vocabulary: expected .*, received {received}"):
            bag_of_words(["a dog"], vocabulary=wrong)
    with pytest.raises(ValueError, match="captions: expected a sequence of texts"):
        bag_of_words("a dog")
