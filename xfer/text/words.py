"""Cleaned words as numbers, without a Python object for each word of a text.

Cutting millions of words out as strings and looking each up in a dict is bound by memory latency.
Here a word of up to eight bytes is one integer, read straight from the text, and a hash table made
of NumPy arrays looks up a megabyte of text at a time. The words are exactly those of :func:`clean`.
"""

import re
import reprlib

import numpy as np

_ENDINGS = (b"t", b"ve", b"d", b"s", b"ll", b"m", b"er")
_MARKS = {",": ",", ";": ";", "!": "!", "(": "\\(", ")": "\\)", "?": "\\?"}
_WORD_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'"
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_CHUNK = 1_000_000  # characters at a time; what is made of them stays in the processor's cache


def _translation(mark_codes, blank):
    """Return a table for ``bytes.translate`` that leaves the bytes of words as they are."""
    table = {code: code for code in _WORD_BYTES} | dict(zip(map(ord, _MARKS), mark_codes))
    return bytes(table.get(code, blank) for code in range(256))


_BLANK_OTHERS = _translation(map(ord, _MARKS), ord(" "))
# Lowered, with 0 for a blank and 1 to 6 for the marks: one comparison tells both from words.
_CODES = _translation(range(1, 7), 0).lower()
# No rule's text overlaps another's, so replacing one after the other is the same as one pass.
_SPACED = [(b"'" + ending, b" '" + ending + b" ") for ending in _ENDINGS] + [
    (mark.encode(), f" {word} ".encode()) for mark, word in _MARKS.items()
]


def clean(text):
    """Clean one text, as :meth:`xfer.Vocabulary.clean_str` documents."""
    if not text.isascii():
        text = _NON_ASCII.sub(" ", text)
    data = text.encode("ascii").translate(_BLANK_OTHERS)
    for found, spaced in _SPACED:
        data = data.replace(found, spaced)
    return data.strip().lower().decode("ascii")


class WordNumbers:
    """Numbers the distinct words of texts from 1, in the order of first appearance.

    Parameters
    ----------
    collapse_whitespace : bool
        Whether a run of blanks is one separator; only then is it fast.
    longest : int, optional
        How many words of each text to look at; all by default.
    """

    def __init__(self, collapse_whitespace, longest=None):
        self._collapse = collapse_whitespace
        self._longest = longest
        self._keys = _KeyNumbers()
        self._pieces = _KeyNumbers()
        self._strings = _StringNumbers()

    def __len__(self):
        return len(self._keys.keys) - 1 if self._collapse else len(self._strings)

    def number_each(self, texts):
        """Yield the numbers of the words, for many texts at a time.

        Parameters
        ----------
        texts : iterable of str

        Yields
        ------
        numbers : ndarray of shape (n_words,), int32
            Of the words of these texts, one text after the other.
        lengths : ndarray of shape (n_texts,)
            How many words each text has.
        """
        number = self._number_runs if self._collapse else self._number_strings
        chunk, size = [], 0
        for text in texts:
            chunk.append(text)
            size += len(text)
            if size >= _CHUNK:
                yield number(chunk)
                chunk, size = [], 0
        if chunk:
            yield number(chunk)

    def words(self, numbers):
        """Return the words that have these numbers, as a list of str."""
        if not self._collapse:
            strings = list(self._strings)
            return [strings[number - 1] for number in numbers.tolist()]
        keys = self._keys.keys[numbers]
        short = np.where(keys & 0xFF, keys, 0)
        words = _as_bytes(short[:, np.newaxis]).astype("U8").tolist()
        for code, word in enumerate(_MARKS.values(), start=1):
            for place in np.flatnonzero(keys == code).tolist():
                words[place] = word
        long = np.flatnonzero(short == 0)
        for place, word in zip(long.tolist(), self._long_words(keys[long])):
            words[place] = word
        return words

    def _number_strings(self, texts):
        rows = [clean(text).split(" ")[: self._longest] for text in texts]
        lengths = np.array([len(row) for row in rows])
        numbers = (self._strings[word] for row in rows for word in row)
        return np.fromiter(numbers, np.int32, lengths.sum()), lengths

    def _number_runs(self, texts):
        # All bytes of a character outside ASCII become blanks; how many does not matter here.
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        data = b" ".join([b"", *encoded, b" " * 8])
        codes = data.translate(_CODES)
        text_starts = np.cumsum([1] + [len(text) + 1 for text in encoded])
        joined = _find_joined(data, codes)
        visible = np.frombuffer(codes, np.uint8) != 0
        starts = np.flatnonzero(visible[1:] & ~joined[:-1]) + 1
        bounds = np.searchsorted(starts, text_starts)
        lengths = np.diff(bounds)
        if self._longest is not None:
            lengths = np.minimum(lengths, self._longest)
            spans = zip(bounds.tolist(), (bounds[:-1] + lengths).tolist())
            starts = np.concatenate([starts[first:end] for first, end in spans])
        return self._keys.number(self._make_keys(codes, joined, starts)), lengths

    def _make_keys(self, codes, joined, starts):
        """Return one integer for each word: its bytes, if it has at most eight."""
        keys, longer = _read_eight(codes, joined, starts)
        long = np.flatnonzero(longer)
        keys[long] = self._make_long_keys(codes, joined, starts[long], keys[long])
        return keys

    def _make_long_keys(self, codes, joined, starts, heads):
        """Return the numbers of the two halves of each word, or of the whole if over 16 bytes.

        They are in bits 36 to 63 and 8 to 35; the number of a whole is in the second place. The
        lowest byte is 0, unlike the first character of a short word.
        """
        tails, longer = _read_eight(codes, joined, starts + 8)
        halves = self._pieces.number(np.append(heads, tails)).astype("<u8")
        keys = halves[: len(starts)] << 36 | halves[len(starts) :] << 8
        joined = joined.tobytes()
        for place in np.flatnonzero(longer).tolist():
            end = joined.index(0, starts[place]) + 1
            keys[place] = self._strings[codes[starts[place] : end]] << 8
        return keys

    def _long_words(self, keys):
        first, second = keys >> 36, keys >> 8 & (1 << 28) - 1
        halves = [self._pieces.keys[number] for number in (first, np.where(first, second, 0))]
        words = _as_bytes(np.column_stack(halves)).astype("U16").tolist()
        strings = list(self._strings)
        for place in np.flatnonzero(first == 0).tolist():
            words[place] = strings[int(second[place]) - 1].decode()
        return words


def _find_joined(data, codes):
    """Return whether each character belongs to the same word as the next one.

    ``data`` is the encoded text, with blanks at both ends, and ``codes`` its translation.
    """
    text = np.frombuffer(data, np.uint8)
    joined = np.frombuffer(codes, np.uint8) > len(_MARKS)
    joined[:-1] &= joined[1:]
    apostrophes = np.flatnonzero(text == ord("'"))
    for ending in _ENDINGS:
        found = apostrophes
        for offset, letter in enumerate(ending, start=1):
            found = found[text[found + offset] == letter]
        joined[found - 1] = joined[found + len(ending)] = False
    return joined


def _read_eight(codes, joined, starts):
    """Return the bytes of each word, eight at most, as an integer, and whether it goes on."""
    shape, strides = len(codes) - 7, 1
    apart = ~np.ndarray(shape, "<u8", joined, strides=strides)[starts] & 0x0101010101010101
    # The lowest bit set is at the last character. If there is none, all eight bytes are kept.
    kept = ((apart & -apart) << 8) - 1
    return np.ndarray(shape, "<u8", codes, strides=strides)[starts] & kept, apart == 0


def _as_bytes(keys):
    """Return the bytes that the rows of a matrix of keys stand for."""
    return np.ascontiguousarray(keys, "<u8").view(f"S{8 * keys.shape[1]}")[:, 0]


class _StringNumbers(dict):
    """Numbers strings from 1, each when it is first looked up."""

    def __missing__(self, string):
        number = self[string] = len(self) + 1
        return number


class _KeyNumbers:
    """Numbers integers from 1 in the order of first appearance: a dict that works on arrays.

    ``keys`` holds the key of each number, with 0, which is no key, at number 0.
    """

    def __init__(self):
        self.keys = np.zeros(1, "<u8")
        self._table = np.zeros(2, np.int32)  # a number at the slot of its key, or the next free one

    def number(self, keys):
        """Return the number of each key; new keys get the next numbers."""
        numbers = self._find(keys)
        missing = np.flatnonzero(numbers == 0)
        if missing.size:
            self._add(list(dict.fromkeys(keys[missing].tolist())))
            numbers[missing] = self._find(keys[missing])
        return numbers

    def _find(self, keys):
        """Return the number of each key, 0 for a new one."""
        slots = self._first_slots(keys)
        numbers = self._table[slots]
        wrong = np.flatnonzero((self.keys[numbers] != keys) & (numbers != 0))
        while wrong.size:
            slots[wrong] = self._next_slots(slots[wrong])
            numbers[wrong] = self._table[slots[wrong]]
            wrong = wrong[(self.keys[numbers[wrong]] != keys[wrong]) & (numbers[wrong] != 0)]
        return numbers

    def _add(self, new_keys):
        numbered = len(self.keys)
        self.keys = np.append(self.keys, np.array(new_keys, "<u8"))
        if len(self._table) < 2 * len(self.keys):
            self._table = np.zeros(4 << len(self.keys).bit_length(), np.int32)
            numbered = 1
        numbers = np.arange(numbered, len(self.keys), dtype=np.int32)
        slots = self._first_slots(self.keys[numbers])
        while numbers.size:
            free = self._table[slots] == 0
            self._table[slots[free]] = numbers[free]
            left = self._table[slots] != numbers
            numbers, slots = numbers[left], self._next_slots(slots[left])

    def _first_slots(self, keys):
        # Multiplying by 2**64 / golden ratio spreads keys over the highest bits (Knuth 6.4).
        shift = 65 - len(self._table).bit_length()
        return (keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(shift)).astype(np.intp)

    def _next_slots(self, slots):
        return (slots + 1) & (len(self._table) - 1)


def strings(items, name):
    """Yield strings one by one; refuse one string in their place, and anything else among them."""
    if isinstance(items, (str, bytes)) or not hasattr(items, "__iter__"):
        raise TypeError(f"{name} must be a list of strings, got one {type(items).__name__}")
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(f"{name}[{number}] must be a string, got {shown(item)}")
        yield item


def shown(value):
    """Return the type and the beginning of a value, for a message."""
    return f"{type(value).__name__}: {reprlib.repr(value)}"
