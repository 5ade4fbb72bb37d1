"""Vocabulary and Corpus against a naive reading of the rules, on random and on real text."""

import json
import os
import pickle
import pickletools
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from xfer import Corpus, Vocabulary

ENDINGS = ("'t", "'ve", "'d", "'s", "'ll", "'m", "'er")
FRAGMENTS = (
    *ENDINGS,
    *(ending.upper() for ending in ENDINGS),
    *",;!?()'\"&<>\\/.-_",
    *"abcdefglmrstv",
    *"ABDELMRSTV019",
    *(" ", "  ", "\t", "\r\n", "\x00", "\x01", "\x06", "\x1c", "\x1d", "\x1e", "\x1f", "\x7f"),
    *("\x85", "\xa0", "é", "İ", "\u212a", "\u2003", "北京", "\U0001f600", "\ud800"),
    *("Seventeenletters1", "x" * 300),
)


def naive_clean(text):
    """The published rules, one regular expression after the other."""
    text = re.sub(r"[^A-Za-z0-9(),;!?']", " ", text)
    for rule in (*ENDINGS, ",", ";", "!", r"\?", r"\)", r"\("):
        text = re.sub(rule, lambda match, rule=rule: f" {rule} ", text)
    return text.strip().lower()


def naive_split(texts, collapse_whitespace):
    return [naive_clean(text).split(None if collapse_whitespace else " ") for text in texts]


def random_texts(seed, n_texts=60, longest=60):
    random = np.random.RandomState(seed)
    return [""] + [
        "".join(FRAGMENTS[index] for index in random.randint(len(FRAGMENTS), size=size))
        for size in random.randint(longest + 1, size=n_texts)
    ]


def check_against_naive(texts, collapse_whitespace, fix_length=7):
    rows = naive_split(texts, collapse_whitespace)
    counts = Counter(word for row in rows for word in row)
    words = [word for word, _ in counts.most_common()]
    vocabulary = Vocabulary(texts, collapse_whitespace=collapse_whitespace)
    assert vocabulary.id2word == [*words, "</s>", "</ukw>"]
    assert vocabulary.word2id == {word: index for index, word in enumerate(vocabulary.id2word)}
    assert vocabulary.word_counts == counts
    assert vocabulary.max_length == max(map(len, rows))

    known = Vocabulary.from_words(
        [*words[::2], "</ukw>", "</s>"], collapse_whitespace=collapse_whitespace
    )
    x = np.full((len(rows), fix_length), known.word2id["</s>"])
    for index, row in enumerate(rows):
        ids = [known.word2id.get(word, known.word2id["</ukw>"]) for word in row[:fix_length]]
        x[index, : len(ids)] = ids
    found = Corpus(texts, None, known, fix_length=fix_length)
    assert found.x.dtype == np.int32
    np.testing.assert_array_equal(found.x, x)


@pytest.fixture(params=[True, False], ids=["collapsed", "single blanks"])
def collapse_whitespace(request):
    return request.param


@pytest.fixture
def vocabulary():
    return Vocabulary.from_words(["</s>", "</ukw>", "a", "car", ",", "'s"])


# Words


def test_conformance_cases(shared):
    cases = json.loads((shared / "conformance" / "text_cases.json").read_text(encoding="utf-8"))
    collapsed = Vocabulary(["a"])
    single = Vocabulary(["a"], collapse_whitespace=False)
    assert cases
    for case in cases:
        text = case["text"]
        assert Vocabulary.clean_str(text) == case["cleaned"]
        assert collapsed.split(text) == case["words_collapsed"]
        assert single.split(text) == case["words_single_blank"]
        assert set(Vocabulary([text]).word_counts) == set(case["words_collapsed"])
    for mode in (True, False):
        check_against_naive([case["text"] for case in cases], mode)


@pytest.mark.parametrize("seed", range(8))
def test_random_text_gives_what_the_rules_say(seed, collapse_whitespace):
    check_against_naive(random_texts(seed), collapse_whitespace)


def test_every_pair_of_fragments():
    texts = [first + second for first in FRAGMENTS for second in FRAGMENTS]
    check_against_naive(texts, True, fix_length=3)


@pytest.mark.parametrize("seed", range(3))
def test_clean_str_on_random_text(seed):
    for text in random_texts(seed):
        assert Vocabulary.clean_str(text) == naive_clean(text)


def test_ties_keep_the_order_of_first_appearance():
    words = [f"{stem}{index}" for index in range(300) for stem in ("w", "averylongword")]
    np.random.RandomState(0).shuffle(words)
    half = len(words) // 2
    texts = [" ".join(words[:half]), " ".join(words[half:]), " ".join(reversed(words))]
    assert Vocabulary(texts).id2word == [*words, "</s>", "</ukw>"]


# Vocabulary


def test_vocabulary_describes_itself():
    vocabulary = Vocabulary(["a car", "a bike"], padding_word="<pad>", unknown_word="<new>")
    assert vocabulary.id2word == ["a", "car", "bike", "<pad>", "<new>"]
    assert (vocabulary.padding_word, vocabulary.unknown_word) == ("<pad>", "<new>")
    assert len(vocabulary) == 5
    assert repr(vocabulary) == (
        "Vocabulary(5 words, padding_word='<pad>', unknown_word='<new>', max_length=2)"
    )
    assert type(vocabulary.word_counts) is Counter
    assert {type(count) for count in vocabulary.word_counts.values()} == {int}
    assert vocabulary.word_counts.most_common(1) == [("a", 2)]
    assert {type(word) for word in vocabulary.id2word} == {str}


@pytest.mark.parametrize(
    "sentences",
    [
        (text for text in ["a car", "car"]),
        ("a car", "car"),
        np.array(["a car", "car"]),
        np.array(["a car", "car"], object),
    ],
    ids=["generator", "tuple", "array", "object array"],
)
def test_sentences_may_be_any_iterable_of_strings(sentences):
    assert Vocabulary(sentences).id2word == ["car", "a", "</s>", "</ukw>"]


def test_texts_without_a_word(collapse_whitespace):
    vocabulary = Vocabulary(["", " \n", "..."], collapse_whitespace=collapse_whitespace)
    if collapse_whitespace:
        assert vocabulary.id2word == ["</s>", "</ukw>"]
        assert vocabulary.max_length == 0
        assert Corpus(["", "-"], None, vocabulary).x.shape == (2, 0)
        assert Corpus(["", "-"], None, vocabulary, fix_length=2).x.tolist() == [[0, 0], [0, 0]]
    else:
        assert vocabulary.id2word == ["", "</s>", "</ukw>"]
        assert vocabulary.word_counts == {"": 3}


@pytest.mark.parametrize("make", [Vocabulary, lambda texts: Corpus(texts, None, Vocabulary(["a"]))])
def test_sentences_that_are_none(make):
    with pytest.raises(ValueError, match=r"sentences is empty: a .* needs at least one sentence"):
        make([])
    with pytest.raises(TypeError, match="sentences must be a list of strings, got one str"):
        make("a car")
    with pytest.raises(TypeError, match="sentences must be a list of strings, got one bytes"):
        make(b"a car")
    with pytest.raises(TypeError, match="sentences must be a list of strings, got one NoneType"):
        make(None)
    with pytest.raises(TypeError, match=r"sentences\[1\] must be a string, got int: 3"):
        make(["a car", 3])
    with pytest.raises(TypeError, match=r"sentences\[0\] must be a string, got bytes: b'a car'"):
        make([b"a car"])
    with pytest.raises(
        TypeError, match=r"sentences\[0\] must be a string, got list: \['a', 'car'\]"
    ):
        make([["a", "car"]])


def test_clean_str_takes_one_string():
    with pytest.raises(TypeError, match=r"text must be a string, got list: \['a'\]"):
        Vocabulary.clean_str(["a"])


def test_reserved_words(collapse_whitespace):
    options = {"collapse_whitespace": collapse_whitespace}
    with pytest.raises(ValueError, match=r"the text has the reserved words \['car'\]: use words"):
        Vocabulary(["a car", "Car"], padding_word="car", **options)
    with pytest.raises(ValueError, match=r"the text has the reserved words \['a'\]"):
        Vocabulary(["a car"], unknown_word="a", **options)
    with pytest.raises(ValueError, match="padding_word and unknown_word are both 'x'"):
        Vocabulary(["a car"], "x", "x", **options)
    with pytest.raises(TypeError, match="padding_word must be a string, got NoneType"):
        Vocabulary(["a car"], None, **options)
    with pytest.raises(TypeError, match="unknown_word must be a string or None, got int: 1"):
        Vocabulary(["a car"], unknown_word=1, **options)
    # Text that looks like a reserved word is cleaned to other words.
    assert Vocabulary(["</s> </ukw>"]).id2word == ["s", "ukw", "</s>", "</ukw>"]


def test_from_words_keeps_the_order(shared):
    words = json.loads((shared / "models" / "newsgroups_cnn-words.json").read_text())
    vocabulary = Vocabulary.from_words(words)
    assert vocabulary.id2word == words
    assert vocabulary.word2id["</s>"] == 0
    assert vocabulary.word_counts == Counter()
    assert vocabulary.max_length == 0
    corpus = Corpus(["Isn't it (really) good?", "khm xyzzyplugh"], None, vocabulary)
    assert [[words[index] for index in row] for row in corpus.x] == [
        ["isn", "'t", "it", "\\(", "really", "\\)", "good", "\\?"],
        ["khm", "</ukw>"] + ["</s>"] * 6,
    ]
    # Every word of the list is found again. In upper case no ending is cut off twice.
    text = " ".join(words[2:]).replace("\\", "").upper()
    found = Corpus([text], None, vocabulary).x[0]
    np.testing.assert_array_equal(found, np.arange(2, len(words)))


def test_from_words_refuses():
    with pytest.raises(ValueError, match=r"words has 1 repeated entries, such as \['a'\]"):
        Vocabulary.from_words(["a", "a", "</s>", "</ukw>"])
    with pytest.raises(ValueError, match=r"words lacks \['</s>'\]: append them"):
        Vocabulary.from_words(["a", "</ukw>"])
    with pytest.raises(TypeError, match=r"words\[0\] must be a string, got int: 1"):
        Vocabulary.from_words([1, "</s>", "</ukw>"])
    with pytest.raises(TypeError, match="words must be a list of strings, got one str"):
        Vocabulary.from_words("</s>")


# Files


@pytest.mark.parametrize("unknown_word", ["</ukw>", None])
def test_a_saved_vocabulary_comes_back(tmp_path, unknown_word, collapse_whitespace):
    vocabulary = Vocabulary(
        random_texts(1), unknown_word=unknown_word, collapse_whitespace=collapse_whitespace
    )
    path = tmp_path / "words.json"
    path.write_text("an older file")
    vocabulary.save(str(path))
    assert vars(Vocabulary.load(path)) == vars(vocabulary)
    assert list(tmp_path.iterdir()) == [path]
    assert vars(pickle.loads(pickle.dumps(vocabulary))) == vars(vocabulary)


def test_words_outside_ascii_are_saved(tmp_path):
    vocabulary = Vocabulary.from_words(["</s>", "</ukw>", "café", "\ud800", '"\n\0'])
    vocabulary.save(tmp_path / "words.json")
    assert Vocabulary.load(tmp_path / "words.json").id2word == vocabulary.id2word


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "xfer vocabulary 99"},
            "expected 'xfer vocabulary 1', found 'xfer vocabulary 99'",
        ),
        ({"id2word": "</s>"}, "words must be a list of strings, got one str"),
        ({"id2word": ["</s>", "</ukw>", 3]}, r"words\[2\] must be a string, got int: 3"),
        ({"id2word": ["</s>", "</s>"]}, "words has 1 repeated entries"),
        ({"id2word": ["a"]}, r"words lacks \['</s>', '</ukw>'\]"),
        ({"padding_word": None}, "padding_word must be a string, got NoneType"),
        ({"unknown_word": 1}, "unknown_word must be a string or None, got int: 1"),
        ({"max_length": "2"}, "max_length must be an integer, got str: '2'"),
        ({"collapse_whitespace": "no"}, "collapse_whitespace must be a bool, got str: 'no'"),
        ({"word_counts": ["a"]}, r"word_counts must be a dict, got list: \['a'\]"),
        ({"word_counts": {"a": "1"}}, r"word_counts\['a'\] must be an integer, got str: '1'"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, changes, message):
    path = tmp_path / "words.json"
    Vocabulary(["a car"]).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        Vocabulary.load(path)


def test_a_file_that_is_no_vocabulary(tmp_path):
    path = tmp_path / "words.json"
    Vocabulary(["a car"]).save(path)
    data = path.read_bytes()
    state = json.loads(data)
    for name in set(state) - {"format"}:
        path.write_text(json.dumps({key: state[key] for key in state if key != name}))
        with pytest.raises(ValueError, match=f"is not a vocabulary: it has no {name}"):
            Vocabulary.load(path)
    broken = [data[:size] for size in range(len(data))]
    for content in (*broken, b"[1]", b"3", b"null", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"words.json is not a vocabulary: "):
            Vocabulary.load(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        Vocabulary.load(tmp_path / "missing.json")


# Pickles of the published tutorial

TUTORIAL = """
import pickle, sys
from collections import Counter

class Vocabulary(object):
    pass

vocabulary = Vocabulary()
vocabulary.padding_word = "</s>"
vocabulary.unknown_word = "</ukw>"
vocabulary.max_length = 5
vocabulary.word_counts = Counter(["a", "car", "", "a", "\\\\("])
vocabulary.id2word = ["a", "car", "", "\\\\(", "</s>", "</ukw>"]
vocabulary.word2id = {word: index for index, word in enumerate(vocabulary.id2word)}
sys.stdout.buffer.write(b"<next>".join(pickle.dumps(vocabulary, protocol) for protocol in range(6)))
"""


@pytest.fixture(scope="session")
def tutorial_pickles():
    """The same vocabulary in each protocol, written by a script of its own."""
    written = subprocess.run([sys.executable, "-c", TUTORIAL], stdout=subprocess.PIPE, check=True)
    return written.stdout.split(b"<next>")


def load_pickled(data, folder):
    path = folder / "vocabulary.pickle"
    path.write_bytes(data)
    return Vocabulary.load_pickle(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_tutorial_pickle_is_read(tutorial_pickles, tmp_path, protocol):
    vocabulary = load_pickled(tutorial_pickles[protocol], tmp_path)
    words = ["a", "car", "", "\\(", "</s>", "</ukw>"]
    assert vars(vocabulary) == {
        "padding_word": "</s>",
        "unknown_word": "</ukw>",
        "collapse_whitespace": False,
        "max_length": 5,
        "word_counts": Counter({"a": 2, "car": 1, "": 1, "\\(": 1}),
        "id2word": words,
        "word2id": {word: index for index, word in enumerate(words)},
    }
    assert type(vocabulary.word_counts) is Counter
    vocabulary.save(tmp_path / "words.json")
    assert vars(Vocabulary.load(tmp_path / "words.json")) == vars(vocabulary)


@pytest.mark.parametrize("protocol", [0, 1])
def test_protocols_that_need_other_names_are_refused(tutorial_pickles, tmp_path, protocol):
    with pytest.raises(ValueError, match=r"names copy_reg\._reconstructor, which is not allowed"):
        load_pickled(tutorial_pickles[protocol], tmp_path)


def one_vocabulary(**attributes):
    """A protocol 2 pickle of a tutorial vocabulary, with the attributes as raw opcodes."""
    state = b"".join(
        b"X" + len(name).to_bytes(4, "little") + name.encode() + value
        for name, value in attributes.items()
    )
    return b"\x80\x02c__main__\nVocabulary\n)\x81}(" + state + b"ub."


def raw(value):
    """The opcodes of plain data, without the frame around them."""
    return pickle.dumps(value, 2)[2:-1]


GOOD = {
    "padding_word": raw("</s>"),
    "unknown_word": raw("</ukw>"),
    "max_length": raw(1),
    "word_counts": b"ccollections\nCounter\n" + raw({"a": 1}) + b"\x85R",
    "id2word": raw(["a", "</s>", "</ukw>"]),
    "word2id": raw({"a": 0, "</s>": 1, "</ukw>": 2}),
}


def test_raw_opcodes_are_read(tmp_path):
    assert load_pickled(one_vocabulary(**GOOD), tmp_path).word_counts == Counter("a")


COUNTER = b"ccollections\nCounter\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"word_counts": COUNTER + raw(5) + b"\x85R"}, "not iterable"),
        (
            {"word_counts": COUNTER + raw([1, 2]) + b"\x85R"},
            "each word in word_counts must be a string, got int: 1",
        ),
        (
            {"word_counts": COUNTER + raw({"a": "b"}) + b"\x85R"},
            r"word_counts\['a'\] must be an integer, got str: 'b'",
        ),
        ({"word_counts": COUNTER + raw((1, 2, 3)) + b"R"}, "positional argument"),
        ({"word_counts": COUNTER}, "word_counts must be a dict, got type"),
        ({"word_counts": raw([])}, r"word_counts must be a dict, got list: \[\]"),
        ({"id2word": raw("a")}, "words must be a list of strings, got one str"),
        ({"id2word": raw(["a", "a"])}, "words has 1 repeated entries"),
        ({"max_length": raw(None)}, "max_length must be an integer, got NoneType"),
        ({"word2id": raw({"a": 0})}, "word2id is not the inverse of id2word"),
        ({"word2id": raw(None)}, "word2id is not the inverse of id2word"),
    ],
)
def test_a_changed_pickle_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_pickled(one_vocabulary(**{**GOOD, **changes}), tmp_path)


@pytest.mark.parametrize("name", GOOD)
def test_a_pickle_that_lacks_an_attribute_is_refused(tmp_path, name):
    attributes = {key: GOOD[key] for key in GOOD if key != name}
    with pytest.raises(ValueError, match=f"it has no {name}|word2id is not the inverse"):
        load_pickled(one_vocabulary(**attributes), tmp_path)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def malicious(proof):
    calls = [
        Call(os.system, f"touch '{proof}'"),
        Call(eval, f"open({str(proof)!r}, 'w').close()"),
        Call(exec, f"open({str(proof)!r}, 'w').close()"),
        Call(getattr, Counter, "update"),
    ]
    for call in calls:
        yield from (pickle.dumps(call, protocol) for protocol in range(6))
        yield one_vocabulary(**{**GOOD, "word_counts": raw(call)})
    yield f"cos\nsystem\n(S'touch {proof}'\ntR.".encode()
    yield f"(S'touch {proof}'\nios\nsystem\n.".encode()
    yield b"c__main__\nVocabulary.__init__\n."
    yield b"\x80\x04\x8c\x0bcollections\x8c\x0eCounter.update\x93."
    yield b"\x80\x04\x8c\x08__main__\x8c\x1fVocabulary.__init__.__globals__\x93."


def test_a_malicious_pickle_runs_nothing(tmp_path):
    proof = tmp_path / "it ran"
    for data in malicious(proof):
        with pytest.raises(ValueError, match=r"it names .*, which is not allowed"):
            load_pickled(data, tmp_path)
    assert not proof.exists()


def test_names_from_elsewhere_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unregistered extension code 1"):
        load_pickled(b"\x80\x02\x82\x01.", tmp_path)
    with pytest.raises(ValueError, match="persistent"):
        load_pickled(b"\x80\x02K\x01Q.", tmp_path)


@pytest.mark.parametrize("value", [3, "a", [], {}, None, Counter("a")])
def test_a_pickle_of_something_else_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=f"it holds a {type(value).__name__}"):
        load_pickled(pickle.dumps(value, 2), tmp_path)


def test_a_pickle_cannot_change_a_class(tmp_path):
    before = dict(vars(Counter))
    for name in (b"ccollections\nCounter\n", b"c__main__\nVocabulary\n"):
        state = b"(N" + raw({"most_common": 1, "__eq__": 1}) + b"tb0"
        vocabulary = load_pickled(b"\x80\x02" + name + state + one_vocabulary(**GOOD)[2:], tmp_path)
        assert vocabulary.word_counts.most_common() == [("a", 1)]
    assert dict(vars(Counter)) == before


def test_a_cut_pickle_is_refused(tutorial_pickles, tmp_path):
    for protocol in (2, 4):
        data = tutorial_pickles[protocol]
        for size in range(len(data)):
            with pytest.raises(ValueError, match="is not a pickled tutorial vocabulary: "):
                load_pickled(data[:size], tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x20])
def test_a_pickle_with_a_flipped_byte_gives_a_vocabulary_or_a_clear_error(
    tutorial_pickles, tmp_path, protocol, flip
):
    data = tutorial_pickles[protocol]
    kept = refused = 0
    for index in range(len(data)):
        flipped = data[:index] + bytes([data[index] ^ flip]) + data[index + 1 :]
        message = None
        try:
            vocabulary = load_pickled(flipped, tmp_path)
        except ValueError as error:
            message = str(error)
        if message is None:
            kept += vocabulary.word2id[vocabulary.id2word[-1]] == len(vocabulary) - 1
        else:
            refused += "is not a pickled tutorial vocabulary: " in message
    assert kept + refused == len(data)
    assert refused > len(data) / 3


def test_a_far_memo_place_is_refused_before_it_takes_memory(tmp_path):
    data = b"\x80\x02}r\xff\xff\xff\x7f."
    assert "LONG_BINPUT" in [opcode.name for opcode, _, _ in pickletools.genops(data)]
    with pytest.raises(ValueError, match="it uses memo 2147483647 in 9 bytes"):
        load_pickled(data, tmp_path)


# Corpus


def test_lengths(vocabulary):
    texts = ["a car, a car", "", "A bike"]
    full = Corpus(texts, None, vocabulary).x
    assert full.tolist() == [[2, 3, 4, 2, 3], [0, 0, 0, 0, 0], [2, 1, 0, 0, 0]]
    for length in range(1, 9):
        np.testing.assert_array_equal(
            Corpus(texts, None, vocabulary, max_length=length).x, full[:, :length]
        )
        fixed = Corpus(texts, None, vocabulary, fix_length=length).x
        assert fixed.shape == (3, length)
        np.testing.assert_array_equal(fixed[:, :5], full[:, :length])
        assert not fixed[:, 5:].any()
    both = Corpus(texts, None, vocabulary, max_length=2, fix_length=np.int64(4)).x
    np.testing.assert_array_equal(both, full[:, :4])


@pytest.mark.parametrize("name", ["max_length", "fix_length"])
@pytest.mark.parametrize("length", [0, -1, 2.5, "3", True])
def test_a_length_is_a_positive_integer(vocabulary, name, length):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got {length!r}"):
        Corpus(["a"], None, vocabulary, **{name: length})


def test_a_word_that_reads_like_the_padding_word_is_unknown():
    vocabulary = Vocabulary.from_words(["pad", "new", "a"], "pad", "new")
    assert Corpus(["a pad new b"], None, vocabulary).x.tolist() == [[2, 1, 1, 1]]


def test_words_that_cleaned_text_cannot_hold_are_never_found():
    words = ["</s>", "</ukw>", "Car", "a b", "(", "car\0", "don't", "\x01", "café", "caf\u00e9s"]
    corpus = Corpus(["Car a b ( car\0 don't \x01 café"], None, Vocabulary.from_words(words))
    assert set(corpus.x.ravel()) == {1}


def test_a_vocabulary_without_an_unknown_word(collapse_whitespace):
    options = {"unknown_word": None, "collapse_whitespace": collapse_whitespace}
    vocabulary = Vocabulary(["a car", "a bike"], **options)
    assert vocabulary.id2word == ["a", "car", "bike", "</s>"]
    assert Corpus(["bike", "a car"], None, vocabulary).x.tolist() == [[2, 3], [0, 1]]
    message = "sentence 2: 'truck' is unknown, without an unknown_word"
    with pytest.raises(ValueError, match=message):
        Corpus(["a", "a", "truck car", "lorry"], None, vocabulary)
    assert Corpus(["a truck"], None, vocabulary, max_length=1).x.tolist() == [[0]]
    padded = Vocabulary.from_words(["a", "pad"], "pad", None)
    with pytest.raises(ValueError, match="sentence 0: 'pad' is unknown"):
        Corpus(["a pad"], None, padded)


@pytest.mark.parametrize("labels", [["x", "y"], (1, -5), np.array([0.5, 2]), [True, False]])
def test_labels_of_any_kind(vocabulary, labels):
    corpus = Corpus(["a", "car"], labels, vocabulary)
    np.testing.assert_array_equal(corpus.y, np.asarray(labels))
    assert len(corpus) == 2
    assert repr(corpus) == "Corpus(2 sentences x 1 words, 2 distinct labels, vocabulary of 6 words)"
    assert corpus.vocabulary is vocabulary


@pytest.mark.parametrize("labels", [["x"], ["x"] * 3, [["x"], ["y"]], "xy", []])
def test_labels_that_do_not_fit(vocabulary, labels):
    with pytest.raises(ValueError, match="2 sentences need as many labels, got"):
        Corpus(["a", "car"], labels, vocabulary)


def test_a_corpus_needs_a_vocabulary():
    with pytest.raises(TypeError, match="vocabulary must be a Vocabulary, got list"):
        Corpus(["a"], None, ["a"])


def numbered_corpus(n_texts):
    texts = [f"w{index}" for index in range(n_texts)]
    return Corpus(texts, [index % 3 for index in range(n_texts)], Vocabulary(texts))


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("num_train", [3, 30, 57])
def test_a_split_keeps_texts_with_their_labels(num_train, stratify):
    corpus = numbered_corpus(60)
    parts = corpus.split_train_test(num_train, random_state=0, stratify=stratify)
    x_train, x_test, y_train, y_test = parts
    assert x_train.shape == (num_train, 1)
    assert x_test.shape == (60 - num_train, 1)
    x, y = np.concatenate([x_train, x_test])[:, 0], np.concatenate([y_train, y_test])
    np.testing.assert_array_equal(np.sort(x), np.arange(60))
    np.testing.assert_array_equal(y, x % 3)
    if stratify:
        assert np.bincount(y_train).tolist() == [num_train // 3] * 3
    for part, again in zip(parts, corpus.split_train_test(num_train, 0, stratify)):
        np.testing.assert_array_equal(part, again)
    other = corpus.split_train_test(num_train, 1, stratify)
    assert not np.array_equal(parts[0], other[0])


def test_a_split_draws_nothing_from_the_global_generator_when_seeded():
    before = np.random.get_state()[1].copy()
    numbered_corpus(9).split_train_test(3, random_state=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_split_that_is_impossible(vocabulary):
    corpus = numbered_corpus(9)
    for num_train in (0, -1, 2.0, "3", None):
        with pytest.raises(ValueError, match="num_train must be an integer >= 1, got "):
            corpus.split_train_test(num_train)
    for num_train in (9, 10):
        with pytest.raises(ValueError, match=f"train_size={num_train} should be .* 9"):
            corpus.split_train_test(num_train)
    with pytest.raises(ValueError, match="should be greater or equal to the number of classes"):
        corpus.split_train_test(2, stratify=True)
    with pytest.raises(ValueError, match="this corpus has no labels to split"):
        Corpus(["a", "car"], None, vocabulary).split_train_test(1)
