"""Text to word ids: the vocabulary that a network was trained with, and texts written in it."""

import io
import json
import os
import pickle
import pickletools
import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_letters, digits
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import train_test_split

from xfer._io import atomic_write

_FORMAT = "xfer vocabulary 1"
_SAVED = (
    "id2word",
    "padding_word",
    "unknown_word",
    "collapse_whitespace",
    "word_counts",
    "max_length",
)
_TYPE_NAMES = {str: "a string", int: "an integer", type(None): "None"}
# Any character that is not named here becomes a blank.
_CHARACTERS = defaultdict(
    lambda: " ", {ord(kept): kept for kept in ascii_letters + digits + "'(),;!?"}
)
_ENDING = re.compile("'(?:t|ve|d|s|ll|m|er)")
_MARKS = {",": " , ", ";": " ; ", "!": " ! ", "(": " \\( ", ")": " \\) ", "?": " \\? "}


class Vocabulary:
    """The words a network knows, each with its id.

    Texts are cleaned by :meth:`clean_str` and cut into words. The most frequent word gets id 0;
    of equally frequent words, the one seen first comes first. The padding word and the unknown
    word come last.

    Parameters
    ----------
    sentences : iterable of str
        The texts to take the words from. Read once, so a generator will do.
    padding_word : str, default="</s>"
        Fills up short sentences. Must not occur in the text.
    unknown_word : str or None, default="</ukw>"
        Stands for words outside the vocabulary. Must not occur in the text. With None, a word
        outside the vocabulary is an error.
    collapse_whitespace : bool, default=True
        Whether several blanks in a row are one separator. With False every blank is a separator,
        and there are empty words, as in the vocabularies of the published tutorial.

    Attributes
    ----------
    word_counts : collections.Counter
        How often each word occurs in ``sentences``; empty after :meth:`from_words`.
    id2word : list of str
        The word of each id.
    word2id : dict of str to int
        The id of each word.
    max_length : int
        Words in the longest of ``sentences``; 0 after :meth:`from_words`.

    Raises
    ------
    TypeError
        If ``sentences`` is a single string, or holds something that is not a string.
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
        self,
        sentences: Iterable[str],
        padding_word: str = "</s>",
        unknown_word: str | None = "</ukw>",
        *,
        collapse_whitespace: bool = True,
    ) -> None:
        reserved = _reserved_words(padding_word, unknown_word)
        self.padding_word = padding_word
        self.unknown_word = unknown_word
        self.collapse_whitespace = collapse_whitespace
        self.word_counts: Counter[str] = Counter()
        lengths = []
        for text in _strings(sentences, "sentences"):
            words = self.split(text)
            self.word_counts.update(words)
            lengths.append(len(words))
        if not lengths:
            raise ValueError("sentences is empty: a vocabulary needs at least one sentence")
        for word in reserved:
            if word in self.word_counts:
                raise ValueError(
                    f"the reserved word {word!r} also occurs in the text ({self.word_counts[word]} "
                    "times); choose one that cleaned text cannot contain, such as '</s>'"
                )
        self.max_length = max(lengths)
        self.id2word = [word for word, _ in self.word_counts.most_common()] + reserved
        self.word2id = {word: index for index, word in enumerate(self.id2word)}

    @classmethod
    def from_words(
        cls,
        words: Iterable[str],
        padding_word: str = "</s>",
        unknown_word: str | None = "</ukw>",
        *,
        collapse_whitespace: bool = True,
    ) -> Self:
        """Make a vocabulary of a list of words: the word at index i gets id i.

        Parameters
        ----------
        words : iterable of str
            Every word once, including the reserved words.
        padding_word, unknown_word, collapse_whitespace
            As for the class.

        Raises
        ------
        TypeError
            If ``words`` is a single string, or holds something that is not a string.
        ValueError
            If a word occurs twice, or a reserved word is not in the list.

        Examples
        --------
        >>> Vocabulary.from_words(["</s>", "</ukw>", "car", "bike"]).word2id["bike"]
        3
        """
        words = list(_strings(words, "words"))
        repeated = [word for word, count in Counter(words).items() if count > 1]
        if repeated:
            raise ValueError(f"words has {len(repeated)} repeated entries, such as {repeated[:3]}")
        vocabulary = cls.__new__(cls)
        vocabulary.word2id = {word: index for index, word in enumerate(words)}
        for word in _reserved_words(padding_word, unknown_word):
            if word not in vocabulary.word2id:
                raise ValueError(
                    f"the reserved word {word!r} is not in the list of {len(words)} words; "
                    "append it, or name the one the list uses"
                )
        vocabulary.padding_word = padding_word
        vocabulary.unknown_word = unknown_word
        vocabulary.collapse_whitespace = collapse_whitespace
        vocabulary.word_counts = Counter()
        vocabulary.max_length = 0
        vocabulary.id2word = words
        return vocabulary

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a vocabulary that :meth:`save` wrote; any other file is a ValueError."""
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
    def load_pickle(cls, path: str | os.PathLike[str]) -> Self:
        """Read a vocabulary that was pickled by the published text-transfer tutorial.

        Such a file holds one ``__main__.Vocabulary`` with a ``collections.Counter``. Any other
        name in the file is refused, so the file cannot run code. The vocabulary gets
        ``collapse_whitespace=False``, as the tutorial split its text. Any other or damaged file is
        a ValueError.
        """
        data = Path(path).read_bytes()
        try:
            state = _read_tutorial_pickle(data)
            vocabulary = cls._from_state({**state, "collapse_whitespace": False})
            if state.get("word2id") != vocabulary.word2id:
                raise ValueError("word2id is not the inverse of id2word")
        except Exception as error:
            # A damaged pickle fails in many ways; it has made nothing but data of its own.
            raise ValueError(f"{path} is not a pickled tutorial vocabulary: {error}") from error
        return vocabulary

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Self:
        """Make a vocabulary of the attributes in a file; all are checked."""
        missing = [name for name in _SAVED if name not in state]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        id2word, padding_word, unknown_word, collapse_whitespace, word_counts, max_length = (
            state[name] for name in _SAVED
        )
        _check_type(collapse_whitespace, "collapse_whitespace", bool)
        vocabulary = cls.from_words(
            id2word, padding_word, unknown_word, collapse_whitespace=collapse_whitespace
        )
        vocabulary.max_length = _check_type(max_length, "max_length", int)
        vocabulary.word_counts = Counter(dict(_check_type(word_counts, "word_counts", dict)))
        for word, count in vocabulary.word_counts.items():
            _check_type(word, "each word in word_counts", str)
            _check_type(count, f"word_counts[{word!r}]", int)
        return vocabulary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON. A file at this path is replaced whole or not at all."""
        state = {"format": _FORMAT, **{name: getattr(self, name) for name in _SAVED}}
        with atomic_write(path) as file:
            file.write(json.dumps(state).encode())

    @staticmethod
    def clean_str(text: str) -> str:
        r"""Clean one text by the rules of the published tutorial.

        Each character other than ASCII letters, digits and ``( ) , ; ! ? '`` becomes a blank. The
        endings ``'t 've 'd 's 'll 'm 'er`` and the marks get a blank on both sides; ``( ) ?`` also
        get a backslash in front. Then the text is stripped and put in lower case.

        Examples
        --------
        >>> Vocabulary.clean_str("I'll go (now)!")
        "i 'll  go  \\( now \\)  !"
        """
        text = _check_type(text, "text", str).translate(_CHARACTERS)
        text = _ENDING.sub(r" \g<0> ", text)
        for mark, spaced in _MARKS.items():
            text = text.replace(mark, spaced)
        return text.strip().lower()

    def split(self, text: str) -> list[str]:
        """Clean one text and cut it into words."""
        return self.clean_str(text).split(None if self.collapse_whitespace else " ")

    def __len__(self) -> int:
        return len(self.id2word)

    def __repr__(self) -> str:
        # After from_words the longest sentence is not known.
        longest = f", max_length={self.max_length}" if self.max_length else ""
        return (
            f"Vocabulary({len(self)} words, padding_word={self.padding_word!r}, "
            f"unknown_word={self.unknown_word!r}{longest})"
        )


class Corpus:
    """Texts as a matrix of word ids, with their labels.

    Parameters
    ----------
    sentences : iterable of str
        The texts. Read once, so a generator will do.
    labels : array-like of shape (n,) or None
        One label for each text, of any kind; None if there are no labels.
    vocabulary : Vocabulary
        Cleans and splits the texts and gives the ids. A word that it does not know, or that reads
        like its padding word, gets the id of its unknown word.
    max_length : int, optional
        Longer texts are cut to this many words. The matrix is as wide as the longest text left.
    fix_length : int, optional
        Every text is cut or padded to exactly this many words; ``max_length`` is then ignored.

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
        If ``sentences`` is a single string, or holds something that is not a string.
    ValueError
        If there is no sentence, there is not one label for each sentence, a length is not an
        integer >= 1, or a word is unknown and the vocabulary has no unknown word.

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

    def __init__(
        self,
        sentences: Iterable[str],
        labels: ArrayLike | None,
        vocabulary: Vocabulary,
        max_length: int | None = None,
        fix_length: int | None = None,
    ) -> None:
        _check_type(vocabulary, "vocabulary", Vocabulary)
        longest = None
        for name, length in (("max_length", max_length), ("fix_length", fix_length)):
            if length is not None:
                longest = _positive_integer(length, name)
        rows = list(_id_rows(sentences, vocabulary, longest))
        if not rows:
            raise ValueError("sentences is empty: a corpus needs at least one sentence")
        self.y = None if labels is None else np.asarray(labels)
        if self.y is not None and self.y.shape != (len(rows),):
            raise ValueError(
                f"labels must be one-dimensional with one label for each of the {len(rows)} "
                f"sentences, got shape {self.y.shape}"
            )
        width = max(map(len, rows)) if fix_length is None else fix_length
        padding = vocabulary.word2id[vocabulary.padding_word]
        self.x = np.full((len(rows), width), padding, np.int32)
        for x, row in zip(self.x, rows):
            x[: len(row)] = row
        self.vocabulary = vocabulary

    def split_train_test(
        self,
        num_train: int,
        random_state: int | np.random.RandomState | None = None,
        stratify: bool = False,
    ) -> list[np.ndarray]:
        """Sample ``num_train`` of the texts for training; the others are for testing.

        With ``stratify``, each label is sampled in proportion to its share.

        Returns
        -------
        list of ndarray
            ``x_train, x_test, y_train, y_test``.

        Raises
        ------
        ValueError
            If ``num_train`` is not from 1 to n - 1, there are no labels, or they cannot be
            stratified.
        """
        if self.y is None:
            raise ValueError("this corpus has no labels to split; give them to Corpus(...)")
        n_texts = len(self.y)
        if _positive_integer(num_train, "num_train") >= n_texts:
            raise ValueError(
                f"num_train must be from 1 to {n_texts - 1} to leave some of the {n_texts} texts "
                f"for testing, got {num_train}"
            )
        parts: list[np.ndarray] = train_test_split(
            self.x,
            self.y,
            train_size=num_train,
            random_state=random_state,
            stratify=self.y if stratify else None,
        )
        return parts

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"{len(set(self.y.tolist()))} distinct labels"
        return (
            f"Corpus({self.x.shape[0]} sentences x {self.x.shape[1]} words, {labels}, "
            f"vocabulary of {len(self.vocabulary)} words)"
        )


def _id_rows(
    sentences: Iterable[str], vocabulary: Vocabulary, longest: int | None
) -> Iterator[np.ndarray]:
    """Yield the word ids of each sentence, cut to the longest length."""
    unknown = -1
    if vocabulary.unknown_word is not None:
        unknown = vocabulary.word2id[vocabulary.unknown_word]
    ids = defaultdict(lambda: unknown, vocabulary.word2id)
    ids[vocabulary.padding_word] = unknown
    for index, text in enumerate(_strings(sentences, "sentences")):
        words = vocabulary.split(text)[:longest]
        row = np.fromiter(map(ids.__getitem__, words), np.int32, len(words))
        if unknown < 0 and -1 in row:
            raise ValueError(
                f"sentence {index} has the word {words[row.argmin()]!r}, which the vocabulary "
                "does not know, and the vocabulary has no unknown_word to stand for it"
            )
        yield row


def _read_tutorial_pickle(data: bytes) -> dict[str, Any]:
    """Return the attributes of the one tutorial vocabulary in a pickle."""
    for opcode, argument, _ in pickletools.genops(data):
        # The unpickler would take memory for all places up to this one.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise pickle.UnpicklingError(f"it uses memo {argument} in {len(data)} bytes")
    # New classes for each file: a pickle can set attributes of a class that it can name.
    tutorial_class = type("Vocabulary", (), {})
    allowed: dict[tuple[str, str], type] = {
        ("__main__", "Vocabulary"): tutorial_class,
        ("collections", "Counter"): type("Counter", (Counter,), {}),
    }

    class TutorialUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> type:
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
            return allowed[module, name]

    pickled = TutorialUnpickler(io.BytesIO(data)).load()
    if type(pickled) is not tutorial_class:
        raise ValueError(f"it holds a {type(pickled).__name__}")
    return vars(pickled)


def _reserved_words(padding_word: str, unknown_word: str | None) -> list[str]:
    _check_type(padding_word, "padding_word", str)
    _check_type(unknown_word, "unknown_word", str, type(None))
    if padding_word == unknown_word:
        raise ValueError(f"padding_word and unknown_word must differ, both are {padding_word!r}")
    return [word for word in (padding_word, unknown_word) if word is not None]


def _strings(items: Iterable[str], name: str) -> Iterator[str]:
    """Yield the strings of an iterable; refuse a single string, and items that are not strings."""
    if isinstance(items, (str, bytes)) or not hasattr(items, "__iter__"):
        raise TypeError(f"{name} must be a list of strings, got one {type(items).__name__}")
    for index, item in enumerate(items):
        yield _check_type(item, f"{name}[{index}]", str)


def _check_type(value: Any, name: str, *types: type) -> Any:
    """Return the value if it is of one of these types."""
    if not isinstance(value, types):
        allowed = " or ".join(_TYPE_NAMES.get(kind, f"a {kind.__name__}") for kind in types)
        given = f"{type(value).__name__}: {reprlib.repr(value)}"
        raise TypeError(f"{name} must be {allowed}, got {given}")
    return value


def _positive_integer(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)
