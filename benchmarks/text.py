"""Text to word ids on the 12,204 source posts of the 20 newsgroups, against plain Python.

Run with ``python benchmarks/text.py``; it needs scikit-learn's copy of the collection.
"""

import re
import time
import tracemalloc
from collections import Counter

import numpy as np
from newsgroups_data import posts

import xfer


def main():
    """Print seconds and peak memory of both, and check that they agree."""
    texts, labels = posts("source")
    size = sum(map(len, texts)) / 1e6
    print(f"{len(texts):,} posts, {size:.0f} MB; vocabulary, then ids of 300 words a post")
    print("seconds: the least of three runs")
    ours, ours_seconds = timed(ours_both, texts, labels)
    plain, plain_seconds = timed(plain_both, texts)
    assert ours[0].id2word == plain[0], "the vocabularies differ"
    assert np.array_equal(ours[1].x, plain[1]), "the ids differ"
    peaks = [peak_memory(ours_both, texts, labels), peak_memory(plain_both, texts)]
    print("| | vocabulary s | corpus s | both s | peak MB |\n| --- | --- | --- | --- | --- |")
    for name, seconds, peak in zip(("xfer", "plain Python"), (ours_seconds, plain_seconds), peaks):
        print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {sum(seconds):.2f} | {peak:.0f} |")
    print(f"ratio: {sum(plain_seconds) / sum(ours_seconds):.1f}x faster")


def ours_both(texts, labels):
    """Yield xfer's vocabulary, then its corpus."""
    vocabulary = xfer.Vocabulary(texts)
    yield vocabulary
    yield xfer.Corpus(texts, labels, vocabulary, fix_length=300)


def plain_both(texts):
    """Yield the same by a regex pass for each rule, word by word."""

    def clean(text):
        text = re.sub(r"[^A-Za-z0-9(),;!?']", " ", text)
        for rule in ("'t", "'ve", "'d", "'s", "'ll", "'m", "'er", ",", ";", "!"):
            text = re.sub(rule, f" {rule} ", text)
        for mark in "?)(":
            text = re.sub(re.escape(mark), rf" \\{mark} ", text)
        return text.strip().lower()

    sentences = [clean(text).split() for text in texts]
    counts = Counter(word for words in sentences for word in words)
    id2word = [word for word, _ in counts.most_common()] + ["</s>", "</ukw>"]
    yield id2word
    word2id = {word: number for number, word in enumerate(id2word)}
    rows = []
    for text in texts:
        words = clean(text).split()[:300]
        words = words + ["</s>"] * (300 - len(words))
        rows.append([word2id.get(word, word2id["</ukw>"]) for word in words])
    yield np.array(rows)


def timed(steps, *arguments, repeats=3):
    """Run a generator; return what it yielded and the least seconds of each step."""
    runs = []
    for _ in range(repeats):
        results, seconds = [], []
        start = time.perf_counter()
        for result in steps(*arguments):
            seconds.append(time.perf_counter() - start)
            results.append(result)
            start = time.perf_counter()
        runs.append(seconds)
    return results, [min(step) for step in zip(*runs)]


def peak_memory(steps, *arguments):
    """Return the most Python memory in use at once during a run, in MB."""
    tracemalloc.start()
    for _ in steps(*arguments):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


if __name__ == "__main__":
    main()
