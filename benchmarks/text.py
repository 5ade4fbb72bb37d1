"""Text to word ids on the 12,204 source posts of the 20 newsgroups, against one regex per rule.

Run with ``python benchmarks/text.py``; it needs scikit-learn's copy of the collection.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from newsgroups_data import posts

import xfer

WORDS_PER_POST = 300


def main() -> None:
    """Print the CPU seconds of both, and check that they agree."""
    texts, _ = posts("source")
    size = sum(map(len, texts)) / 1e6
    print(f"{len(texts):,} posts, {size:.0f} MB; vocabulary, then ids of {WORDS_PER_POST} words")
    print("CPU seconds; the least of three runs, in turns")
    best: dict[str, np.ndarray] = {}
    for _ in range(3):
        results = []
        for name, steps in (("xfer", with_xfer), ("one regex per rule", one_regex_per_rule)):
            result, seconds = timed(steps, texts)
            results.append(result)
            best[name] = np.minimum(best.get(name, np.inf), seconds)
        (vocabulary, corpus), (id2word, ids) = results
        assert vocabulary.id2word == id2word, "the vocabularies differ"
        assert np.array_equal(corpus.x, ids), "the ids differ"
    print("| | vocabulary s | corpus s | both s |\n| --- | --- | --- | --- |")
    for name, seconds in best.items():
        print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {sum(seconds):.2f} |")
    print(f"ratio: {sum(best['one regex per rule']) / sum(best['xfer']):.1f}x faster")


def with_xfer(texts: list[str]) -> Iterator[Any]:
    """Yield xfer's vocabulary, then its corpus."""
    vocabulary = xfer.Vocabulary(texts)
    yield vocabulary
    yield xfer.Corpus(texts, None, vocabulary, fix_length=WORDS_PER_POST)


def one_regex_per_rule(texts: list[str]) -> Iterator[Any]:
    """Yield the list of words, then the ids, as the published tutorial's rules are written."""

    def clean(text: str) -> str:
        text = re.sub(r"[^A-Za-z0-9(),;!?']", " ", text)
        for rule in ("'t", "'ve", "'d", "'s", "'ll", "'m", "'er", ",", ";", "!"):
            text = re.sub(rule, f" {rule} ", text)
        for mark in "?)(":
            text = re.sub(re.escape(mark), rf" \\{mark} ", text)
        return text.strip().lower()

    counts = Counter(word for text in texts for word in clean(text).split())
    id2word = [word for word, _ in counts.most_common()] + ["</s>", "</ukw>"]
    yield id2word
    word2id = {word: index for index, word in enumerate(id2word)}
    rows = []
    for text in texts:
        words = clean(text).split()[:WORDS_PER_POST]
        words += ["</s>"] * (WORDS_PER_POST - len(words))
        rows.append([word2id.get(word, word2id["</ukw>"]) for word in words])
    yield np.array(rows)


def timed(steps: Callable[..., Iterator[Any]], texts: list[str]) -> tuple[list[Any], list[float]]:
    """Return what a generator yields, and the CPU seconds of each step."""
    results, seconds = [], []
    start = time.process_time()
    for result in steps(texts):
        seconds.append(time.process_time() - start)
        results.append(result)
        start = time.process_time()
    return results, seconds


if __name__ == "__main__":
    main()
