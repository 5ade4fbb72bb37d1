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

from xfer._checks import check_integer
from xfer._io import atomic_write

_FORMAT = "xfer vocabulary 1"
_SETTINGS = ("padding_word", "unknown_word", "collapse_whitespace")
_SAVED = ("id2word", *_SETTINGS, "word_counts", "max_length")
_TYPE_NAMES = {str: "a string", int: "an integer", type(None): "None"}
# Any character that is not named here becomes a blank.
_CHARACTERS = defaultdict(lambda: " ", {ord(c): c for c in ascii_letters + digits + "'(),;!?"})
_ENDING = re.compile("'(?:t|ve|d|s|ll|m|er)")
_MARKS = {",": " , ", ";": " ; ", "!": " ! ", "(": " \\( ", ")": " \\) ", "?": " \\? "}


class Vocabulary:
    """The words a network knows, each with its id.

    Texts are cleaned by :meth:`clean_str` and cut into words. The most frequent word gets id 0; of
    equally frequent words, the first one seen. The padding word and the unknown word come last.

    Parameters
    ----------
    sentences : iterable of str
        The texts to take the words from.
    padding_word, unknown_word : str, default="</s>", "</ukw>"
        ``padding_word`` pads short sentences, ``unknown_word`` replaces words outside the
        vocabulary; neither may occur in the texts. If ``unknown_word`` is None, unknown words are
        errors.
    collapse_whitespace : bool, default=True
        Whether several blanks are one separator. With False there are empty words between them, as
        in the vocabularies of the published tutorial.

    Attributes
    ----------
    id2word, word2id : list of str, dict of str to int
        The word of each id, and the id of each word.
    word_counts, max_length : collections.Counter, int
        How often each word occurs, and the words in the longest text; empty after `from_words`.

    Examples
    --------
    >>> vocabulary = Vocabulary(["A car, a bike!", "It isn't a car"])
    >>> vocabulary.id2word
    ['a', 'car', ',', 'bike', '!', 'it', 'isn', "'t", '</s>', '</ukw>']
    """

    def __init__(
        self,
        sentences: Iterable[str],
        padding_word: str = "</s>",
        unknown_word: str | None = "</ukw>",
        *,
        collapse_whitespace: bool = True,
    ) -> None:
        reserved = self._set(padding_word, unknown_word, collapse_whitespace)
        lengths = []
        for text in _strings(sentences, "sentences"):
            words = self.split(text)
            self.word_counts.update(words)
            lengths.append(len(words))
        if not lengths:
            raise ValueError("sentences is empty: a vocabulary needs at least one sentence")
        if found := [word for word in reserved if word in self.word_counts]:
            raise ValueError(f"the text has the reserved words {found}: use words such as '</s>'")
        self.max_length = max(lengths)
        self.id2word = [word for word, _ in self.word_counts.most_common()] + reserved
        self.word2id = {word: index for index, word in enumerate(self.id2word)}

    def _set(self, padding_word: Any, unknown_word: Any, collapse_whitespace: Any) -> list[str]:
        """Check and set the settings, and return the reserved words."""
        self.padding_word: str = _check_type(padding_word, "padding_word", str)
        self.unknown_word: str | None = _check_type(unknown_word, "unknown_word", str, type(None))
        if padding_word == unknown_word:
            raise ValueError(f"padding_word and unknown_word are both {padding_word!r}")
        _check_type(collapse_whitespace, "collapse_whitespace", bool)
        self.collapse_whitespace: bool = collapse_whitespace
        self.word_counts, self.max_length = Counter[str](), 0
        return [padding_word] if unknown_word is None else [padding_word, unknown_word]

    @classmethod
    def from_words(
        cls,
        words: Iterable[str],
        padding_word: str = "</s>",
        unknown_word: str | None = "</ukw>",
        *,
        collapse_whitespace: bool = True,
    ) -> Self:
        """Make a vocabulary of words, each once and reserved ones included: the index is the id."""
        vocabulary = cls.__new__(cls)
        reserved = vocabulary._set(padding_word, unknown_word, collapse_whitespace)
        vocabulary.id2word = list(_strings(words, "words"))
        vocabulary.word2id = {word: index for index, word in enumerate(vocabulary.id2word)}
        if repeated := [word for word, n in Counter(vocabulary.id2word).items() if n > 1]:
            raise ValueError(f"words has {len(repeated)} repeated entries, such as {repeated[:3]}")
        if missing := [word for word in reserved if word not in vocabulary.word2id]:
            raise ValueError(f"words lacks {missing}: append them, or name those that it uses")
        return vocabulary

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a vocabulary that :meth:`save` wrote; any other file is a ValueError."""
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
            found = state.get("format") if isinstance(state, dict) else type(state).__name__
            if found != _FORMAT:
                raise ValueError(f"expected {_FORMAT!r}, found {found!r}")
            return cls._from_state(state)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a vocabulary: {error}") from error

    @classmethod
    def load_pickle(cls, path: str | os.PathLike[str]) -> Self:
        """Read a vocabulary that was pickled by the published text-transfer tutorial.

        The vocabulary gets ``collapse_whitespace=False``, as the tutorial split its text. Any other
        file is a ValueError; no file can run code.
        """
        data = Path(path).read_bytes()
        try:
            state = _read_tutorial_pickle(data)
            vocabulary = cls._from_state({**state, "collapse_whitespace": False})
            if state.get("word2id") != vocabulary.word2id:
                raise ValueError("word2id is not the inverse of id2word")
        except Exception as error:  # a damaged pickle fails in many ways
            raise ValueError(f"{path} is not a pickled tutorial vocabulary: {error}") from error
        return vocabulary

    @classmethod
    def _from_state(cls, state: dict[str, Any]) -> Self:
        """Make a vocabulary of the attributes in a file; all are checked."""
        if missing := [name for name in _SAVED if name not in state]:
            raise ValueError(f"it has no {', '.join(missing)}")
        vocabulary = cls.from_words(state["id2word"], **{name: state[name] for name in _SETTINGS})
        counts = dict(_check_type(state["word_counts"], "word_counts", dict))
        for word, count in counts.items():
            _check_type(word, "each word in word_counts", str)
            _check_type(count, f"word_counts[{word!r}]", int)
        vocabulary.word_counts = Counter(counts)
        vocabulary.max_length = _check_type(state["max_length"], "max_length", int)
        return vocabulary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON. A file at this path is replaced whole or not at all."""
        state = {"format": _FORMAT, **{name: getattr(self, name) for name in _SAVED}}
        with atomic_write(path) as file:
            file.write(json.dumps(state).encode())

    @staticmethod
    def clean_str(text: str) -> str:
        r"""Clean one text by the rules of the published tutorial.

        Characters other than ASCII letters, digits and ``( ) , ; ! ? '`` become blanks. The endings
        ``'t 've 'd 's 'll 'm 'er`` and the marks get a blank on both sides; ``( ) ?`` also get a
        backslash in front. Then the text is stripped and put in lower case.

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
        reserved = f"padding_word={self.padding_word!r}, unknown_word={self.unknown_word!r}"
        return f"Vocabulary({len(self)} words, {reserved}, max_length={self.max_length})"


class Corpus:
    """Texts as ``x``, an int32 matrix of word ids padded at the end, and their labels ``y``.

    Parameters
    ----------
    sentences, labels : iterable of str, array-like of shape (n,) or None
        The texts, and one label for each, of any kind; None if there are no labels.
    vocabulary : Vocabulary
        Cleans and splits the texts and gives the ids. A word that it does not know, or that reads
        like its padding word, gets the id of its unknown word.
    max_length, fix_length : int, optional
        Longer texts are cut to this many words. With ``fix_length``, shorter ones are padded to it
        too, and ``max_length`` is ignored.

    Attributes
    ----------
    x : ndarray of shape (n, length), int32
        The word ids.
    y : ndarray of shape (n,), or None
        The labels.

    Examples
    --------
    >>> vocabulary = Vocabulary.from_words(["</s>", "</ukw>", "a", "car"])
    >>> Corpus(["A red car", "Car"], ["autos", "autos"], vocabulary).x
    array([[2, 1, 3],
           [3, 0, 0]], dtype=int32)
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
        for name, length in {"max_length": max_length, "fix_length": fix_length}.items():
            longest = longest if length is None else check_integer(name, length)
        padding, new = vocabulary.padding_word, vocabulary.unknown_word
        unknown = -1 if new is None else vocabulary.word2id[new]
        ids = defaultdict(lambda: unknown, {**vocabulary.word2id, padding: unknown})
        rows = []
        for index, text in enumerate(_strings(sentences, "sentences")):
            words = vocabulary.split(text)[:longest]
            rows.append(np.fromiter(map(ids.__getitem__, words), np.int32, len(words)))
            if new is None and -1 in rows[-1]:
                word = words[rows[-1].argmin()]
                raise ValueError(f"sentence {index}: {word!r} is unknown, without an unknown_word")
        if not rows:
            raise ValueError("sentences is empty: a corpus needs at least one sentence")
        self.y = None if labels is None else np.asarray(labels)
        if self.y is not None and self.y.shape != (len(rows),):
            raise ValueError(f"{len(rows)} sentences need as many labels, got {self.y.shape}")
        width = fix_length or max(map(len, rows))
        self.x = np.full((len(rows), width), vocabulary.word2id[padding], np.int32)
        for x, row in zip(self.x, rows):
            x[: len(row)] = row
        self.vocabulary = vocabulary

    def split_train_test(
        self,
        num_train: int,
        random_state: int | np.random.RandomState | None = None,
        stratify: bool = False,
    ) -> list[np.ndarray]:
        """Return ``[x_train, x_test, y_train, y_test]``, with ``num_train`` texts to train on.

        With ``stratify``, each label is sampled in proportion to its share.
        """
        from sklearn.model_selection import train_test_split

        if self.y is None:
            raise ValueError("this corpus has no labels to split; give them to Corpus(...)")
        check_integer("num_train", num_train)
        options = {"train_size": num_train, "random_state": random_state}
        return train_test_split(self.x, self.y, stratify=self.y if stratify else None, **options)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"{len(set(self.y.tolist()))} distinct labels"
        size = "{} sentences x {} words".format(*self.x.shape)
        return f"Corpus({size}, {labels}, vocabulary of {len(self.vocabulary)} words)"


def _read_tutorial_pickle(data: bytes) -> dict[str, Any]:
    """Return the attributes of the one tutorial vocabulary in a pickle."""
    for opcode, argument, _ in pickletools.genops(data):
        # The unpickler would take memory for all places up to this one.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(data):
            raise pickle.UnpicklingError(f"it uses memo {argument} in {len(data)} bytes")
    # New classes for each file: a pickle can set attributes of a class that it can name.
    tutorial_class = type("Vocabulary", (), {})
    counter_class = type("Counter", (Counter,), {})
    allowed = {"__main__.Vocabulary": tutorial_class, "collections.Counter": counter_class}

    class TutorialUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> type:
            if f"{module}.{name}" not in allowed:
                raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
            return allowed[f"{module}.{name}"]

    pickled = TutorialUnpickler(io.BytesIO(data)).load()
    if type(pickled) is not tutorial_class:
        raise ValueError(f"it holds a {type(pickled).__name__}")
    return vars(pickled)


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
