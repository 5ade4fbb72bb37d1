"""Texts as a matrix of word ids."""

import numpy as np
from sklearn.model_selection import train_test_split

from xfer.text.vocabulary import Vocabulary
from xfer.text.words import WordNumbers, strings


class Corpus:
    """Texts as a matrix of word ids, with their labels.

    Parameters
    ----------
    sentences : iterable of str
        The texts. Read once; a generator will do.
    labels : array-like of shape (n,) or None
        One label for each text, of any kind; None for texts that have none.
    vocabulary : Vocabulary
        Gives the ids, cleans and splits. A word outside it, or that reads like its padding word,
        gets the id of its unknown word.
    max_length : int, optional
        Cut longer texts to this many words. The matrix is as wide as the longest text left.
    fix_length : int, optional
        Cut and pad every text to exactly this many words; goes before ``max_length``.

    Attributes
    ----------
    x : ndarray of shape (n, length), int32
        Word ids, padded at the end.
    y : ndarray of shape (n,) or None
        The labels.
    vocabulary : Vocabulary

    Raises
    ------
    TypeError
        If ``sentences`` is one string, or holds something that is not a string.
    ValueError
        If there is no sentence, the labels are of another number, a length is not a positive
        integer, or a word is unknown to a vocabulary that has no unknown word.

    Examples
    --------
    >>> vocabulary = Vocabulary.from_words(["</s>", "</ukw>", "a", "car"])
    >>> corpus = Corpus(["A red car", "Car"], ["autos", "autos"], vocabulary)
    >>> corpus.x
    array([[2, 1, 3],
           [3, 0, 0]], dtype=int32)
    >>> corpus
    Corpus(2 sentences x 3 words, 1 distinct labels, vocabulary of 4 words)
    """

    def __init__(self, sentences, labels, vocabulary, max_length=None, fix_length=None):
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"vocabulary must be a Vocabulary, got {type(vocabulary).__name__}")
        longest = None
        for name, length in (("max_length", max_length), ("fix_length", fix_length)):
            if length is not None:
                longest = _positive_integer(length, name)
        ids, lengths = _encode(sentences, vocabulary, longest)
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != lengths.shape:
                raise ValueError(
                    f"labels must be one-dimensional with one label for each of the {len(lengths)} "
                    f"sentences, got shape {labels.shape}"
                )
        width = lengths.max() if fix_length is None else fix_length
        padding = vocabulary.word2id[vocabulary.padding_word]
        self.x = np.full((len(lengths), width), padding, np.int32)
        self.x[np.arange(width) < lengths[:, np.newaxis]] = ids
        self.y = labels
        self.vocabulary = vocabulary

    def split_train_test(self, num_train, random_state=None, stratify=False):
        """Draw some of the texts for training; the others are for testing.

        Parameters
        ----------
        num_train : int
            How many to draw, from 1 to n - 1.
        random_state : int, numpy.random.RandomState or None
            Seed of the draw.
        stratify : bool, default=False
            Whether to draw each label in proportion to its share.

        Returns
        -------
        x_train : ndarray of shape (num_train, length)
        x_test : ndarray of shape (n - num_train, length)
        y_train : ndarray of shape (num_train,)
        y_test : ndarray of shape (n - num_train,)

        Raises
        ------
        ValueError
            If ``num_train`` is out of range, there are no labels, or they cannot be stratified.
        """
        if self.y is None:
            raise ValueError("this corpus has no labels to split; give them to Corpus(...)")
        number = len(self.y)
        if _positive_integer(num_train, "num_train") >= number:
            raise ValueError(
                f"num_train must be from 1 to {number - 1} to leave some of the {number} texts for "
                f"testing, got {num_train}"
            )
        return train_test_split(
            self.x,
            self.y,
            train_size=num_train,
            random_state=random_state,
            stratify=self.y if stratify else None,
        )

    def __len__(self):
        return len(self.x)

    def __repr__(self):
        labels = "no labels" if self.y is None else f"{len(set(self.y.tolist()))} distinct labels"
        return (
            f"Corpus({self.x.shape[0]} sentences x {self.x.shape[1]} words, {labels}, "
            f"vocabulary of {len(self.vocabulary)} words)"
        )


def _encode(sentences, vocabulary, longest):
    """Return the ids of all words, one sentence after the other, and each sentence's length."""
    numbering = WordNumbers(vocabulary.collapse_whitespace, longest)
    chunks = list(numbering.number_each(strings(sentences, "sentences")))
    if not chunks:
        raise ValueError("sentences is empty: a corpus needs at least one sentence")
    numbers, lengths = map(np.concatenate, zip(*chunks))
    word2id = vocabulary.word2id
    unknown = word2id.get(vocabulary.unknown_word, -1)
    words = numbering.words(np.arange(1, len(numbering) + 1))
    id_of_number = np.array([-1] + [word2id.get(word, unknown) for word in words], np.int32)
    id_of_number[id_of_number == word2id[vocabulary.padding_word]] = unknown
    ids = id_of_number[numbers]
    if unknown < 0 and (ids < 0).any():
        first = int(np.argmin(ids))
        sentence = np.searchsorted(np.cumsum(lengths), first, side="right")
        raise ValueError(
            f"sentence {sentence} has the word {words[numbers[first] - 1]!r}, which the vocabulary "
            "does not know, and the vocabulary has no unknown_word to stand for it"
        )
    return ids, lengths


def _positive_integer(value, name):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)
