"""The lexicon that a network was trained with."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

from xfer._files import written_whole
from xfer.text.tutorial_pickle import read_tutorial_pickle
from xfer.text.words import WordNumbers, clean, shown, strings

_FORMAT = "xfer vocabulary 1"
_STATE = {
    "padding_word": (str,),
    "unknown_word": (str, type(None)),
    "collapse_whitespace": (bool,),
    "max_length": (int,),
    "id2word": (list,),
    "word_counts": (dict,),
}


class Vocabulary:
    """The words a network knows, each with its id.

    Words are counted after :meth:`clean_str` and numbered by falling count, ties by first
    appearance; the padding word and the unknown word come last.

    Parameters
    ----------
    sentences : iterable of str
        The texts to take the words from. Read once; a generator will do.
    padding_word : str, default="</s>"
        Fills short sentences up. Must not occur in the text.
    unknown_word : str or None, default="</ukw>"
        Stands for every word outside the vocabulary; with None there is no such id, and an
        unknown word is an error. Must not occur in the text.
    collapse_whitespace : bool, default=True
        Whether a run of blanks is one separator. With False every single blank separates, so
        that empty words appear: what vocabularies of the published tutorial were built with.

    Attributes
    ----------
    word_counts : collections.Counter
        How often each word occurs in ``sentences``; empty for :meth:`from_words`.
    id2word : list of str
        The word of each id.
    word2id : dict of str to int
        The id of each word.
    max_length : int
        Words in the longest of ``sentences``; 0 for :meth:`from_words`.

    Raises
    ------
    TypeError
        If ``sentences`` is one string, or holds something that is not a string.
    ValueError
        If there is no sentence, or a reserved word also occurs in the text.

    Examples
    --------
    >>> vocabulary = Vocabulary(["A car, a bike!", "It isn't a car"])
    >>> vocabulary.id2word
    ['a', 'car', ',', 'bike', '!', 'it', 'isn', "'t", '</s>', '</ukw>']
    >>> vocabulary
    Vocabulary(10 words, padding_word='</s>', unknown_word='</ukw>', max_length=6)
    """

    def __init__(
        self, sentences, padding_word="</s>", unknown_word="</ukw>", *, collapse_whitespace=True
    ):
        reserved = _reserved_words(padding_word, unknown_word)
        words, counts, max_length = _count_words(sentences, collapse_whitespace)
        for word in reserved:
            if word in counts:
                raise ValueError(
                    f"the reserved word {word!r} also occurs in the text ({counts[word]} times); "
                    "choose one that cleaned text cannot contain, such as '</s>'"
                )
        self._set(
            words + reserved, padding_word, unknown_word, collapse_whitespace, counts, max_length
        )

    @classmethod
    def from_words(
        cls, words, padding_word="</s>", unknown_word="</ukw>", *, collapse_whitespace=True
    ):
        """Take an existing list of words in its own order: the word at position i gets id i.

        Parameters
        ----------
        words : iterable of str
            Every word once, the reserved words among them.
        padding_word, unknown_word, collapse_whitespace
            As for the class.

        Returns
        -------
        Vocabulary
            With empty ``word_counts`` and a ``max_length`` of 0, which a list does not tell.

        Raises
        ------
        TypeError
            If ``words`` is one string, or holds something that is not a string.
        ValueError
            If a word occurs twice, or a reserved word is not in the list.

        Examples
        --------
        >>> Vocabulary.from_words(["</s>", "</ukw>", "car", "bike"]).word2id["bike"]
        3
        """
        words = list(strings(words, "words"))
        repeated = [word for word, count in Counter(words).items() if count > 1]
        if repeated:
            raise ValueError(f"words has {len(repeated)} repeated entries, such as {repeated[:3]}")
        known = set(words)
        for word in _reserved_words(padding_word, unknown_word):
            if word not in known:
                raise ValueError(
                    f"the reserved word {word!r} is not in the list of {len(words)} words; "
                    "append it, or name the one the list uses"
                )
        vocabulary = cls.__new__(cls)
        vocabulary._set(words, padding_word, unknown_word, collapse_whitespace, Counter(), 0)
        return vocabulary

    @classmethod
    def load(cls, path):
        """Read a vocabulary that :meth:`save` wrote.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        Vocabulary

        Raises
        ------
        ValueError
            If the file is not a vocabulary, is damaged, or is of another version.
        """
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a vocabulary: not JSON ({error})") from error
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        if found != _FORMAT:
            raise ValueError(f"{path} is not a vocabulary: expected {_FORMAT!r}, found {found!r}")
        try:
            return cls._from_state(state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a vocabulary: {error}") from error

    @classmethod
    def load_pickle(cls, path):
        """Read a vocabulary pickled by the published text-transfer tutorial.

        Such a file holds one ``__main__.Vocabulary`` with a ``collections.Counter``. It is read by
        an unpickler that knows these two classes and refuses every other name, so the file cannot
        run code.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        Vocabulary
            With ``collapse_whitespace=False``, as the tutorial split its text.

        Raises
        ------
        ValueError
            If the file is damaged, or holds anything else.
        """
        data = Path(path).read_bytes()
        try:
            state = read_tutorial_pickle(data)
            vocabulary = cls._from_state({**state, "collapse_whitespace": False})
            if state.get("word2id") != vocabulary.word2id:
                raise ValueError("word2id is not the inverse of id2word")
        except Exception as error:
            # A damaged pickle fails in many ways; it has made nothing but data of its own.
            raise ValueError(f"{path} is not a pickled tutorial vocabulary: {error}") from error
        return vocabulary

    @classmethod
    def _from_state(cls, state):
        for name, kinds in _STATE.items():
            if name not in state:
                raise ValueError(f"it has no {name}")
            if not isinstance(state[name], kinds):
                raise TypeError(f"{name} must be a {kinds[0].__name__}, got {shown(state[name])}")
        counts = Counter(dict(state["word_counts"]))
        for word, count in counts.items():
            if not isinstance(word, str) or not isinstance(count, int):
                raise TypeError(f"word_counts must count words, got {shown(word)}: {shown(count)}")
        vocabulary = cls.from_words(
            state["id2word"],
            state["padding_word"],
            state["unknown_word"],
            collapse_whitespace=state["collapse_whitespace"],
        )
        vocabulary.word_counts = counts
        vocabulary.max_length = state["max_length"]
        return vocabulary

    def _set(self, words, padding_word, unknown_word, collapse_whitespace, counts, max_length):
        self.padding_word = padding_word
        self.unknown_word = unknown_word
        self.collapse_whitespace = collapse_whitespace
        self.word_counts = counts
        self.max_length = max_length
        self.id2word = words
        self.word2id = {word: number for number, word in enumerate(words)}

    def save(self, path):
        """Write the vocabulary as JSON.

        Parameters
        ----------
        path : str or path-like
            The file; it is replaced whole or not at all.
        """
        state = {
            "format": _FORMAT,
            "padding_word": self.padding_word,
            "unknown_word": self.unknown_word,
            "collapse_whitespace": self.collapse_whitespace,
            "max_length": self.max_length,
            "id2word": self.id2word,
            "word_counts": self.word_counts,
        }
        with written_whole(path) as file:
            file.write(json.dumps(state).encode())

    @staticmethod
    def clean_str(text):
        r"""Clean one text by the rules of the published tutorial.

        Every character but ASCII letters, digits and ``( ) , ; ! ? '`` becomes a blank; the endings
        ``'t 've 'd 's 'll 'm 'er`` and the marks get a blank on both sides, and ``( ) ?`` a
        backslash in front; then the text is stripped and lowered.

        Parameters
        ----------
        text : str

        Returns
        -------
        str

        Raises
        ------
        TypeError
            If ``text`` is not a string.

        Examples
        --------
        >>> Vocabulary.clean_str("I'll go (now)!")
        "i 'll  go  \\( now \\)  !"
        """
        if not isinstance(text, str):
            raise TypeError(f"expected a string, got {shown(text)}")
        return clean(text)

    def split(self, text):
        """Clean one text and cut it into words.

        Parameters
        ----------
        text : str

        Returns
        -------
        list of str
        """
        return self.clean_str(text).split(None if self.collapse_whitespace else " ")

    def __len__(self):
        return len(self.id2word)

    def __repr__(self):
        # A list of words does not tell the longest sentence.
        longest = f", max_length={self.max_length}" if self.max_length else ""
        return (
            f"Vocabulary({len(self)} words, padding_word={self.padding_word!r}, "
            f"unknown_word={self.unknown_word!r}{longest})"
        )


def _count_words(sentences, collapse_whitespace):
    """Return the words by falling count, their counts, and the length of the longest sentence."""
    numbering = WordNumbers(collapse_whitespace)
    counts, max_length = np.zeros(0, int), None
    for numbers, lengths in numbering.number_each(strings(sentences, "sentences")):
        earlier, counts = counts, np.bincount(numbers, minlength=len(counts))
        counts[: len(earlier)] += earlier
        max_length = max(max_length or 0, int(lengths.max()))
    if max_length is None:
        raise ValueError("sentences is empty: a vocabulary needs at least one sentence")
    # Numbers follow first appearance, which a stable sort keeps among equal counts.
    order = np.argsort(-counts[1:], kind="stable") + 1
    words = numbering.words(order)
    return words, Counter(dict(zip(words, counts[order].tolist()))), max_length


def _reserved_words(padding_word, unknown_word):
    if not isinstance(padding_word, str):
        raise TypeError(f"padding_word must be a string, got {type(padding_word).__name__}")
    if unknown_word is None:
        return [padding_word]
    if not isinstance(unknown_word, str):
        raise TypeError(f"unknown_word must be a string or None, got {type(unknown_word).__name__}")
    if padding_word == unknown_word:
        raise ValueError(f"padding_word and unknown_word must differ, both are {padding_word!r}")
    return [padding_word, unknown_word]
