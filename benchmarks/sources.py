"""The real networks and data that the benchmarks share, found through XFER_TEST_DATA."""

import json
import os
from pathlib import Path

import numpy as np
from newsgroups_data import posts
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

import xfer

import mxnet as mx  # isort: skip

FOLDER = Path(os.environ.get("XFER_TEST_DATA") or Path(__file__).parents[2] / "shared")


def module(name, epoch=0, **options):
    """Load a Module, not bound."""
    return mx.mod.Module.load(str(FOLDER / "models" / name), epoch, **options)


def newsgroups():
    """Return word ids (6642, 300) and group names of the target posts."""
    words = json.loads((FOLDER / "models/newsgroups_cnn-words.json").read_text())
    words = words["id2word"] if isinstance(words, dict) else words
    texts, labels = posts("target")
    corpus = xfer.Corpus(texts, labels, xfer.Vocabulary.from_words(words), fix_length=300)
    return corpus.x, corpus.y


def cifar_input(images):
    """Scale images (n, 32, 32, 3) for the CIFAR networks: (n, 3, 32, 32)."""
    scaled = (images / 255 - [0.4914, 0.4822, 0.4465]) / [0.2023, 0.1994, 0.2010]
    return scaled.transpose(0, 3, 1, 2).astype(np.float32)


def cifar10():
    """Return input (1000, 3, 32, 32) and labels."""
    data = np.load(FOLDER / "data/cifar10_test_1000.npz")
    return cifar_input(data["x"]), data["y"]


def cifar100():
    """Return input and labels of the 1,000 training and the 1,000 test images of ten classes."""
    data = np.load(FOLDER / "data/cifar100_10class.npz")
    train = cifar_input(data["x_train"]), data["y_train"]
    return *train, cifar_input(data["x_test"]), data["y_test"]


def digits():
    """Return scikit-learn's digits for LeNet, (1797, 1, 28, 28), and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = zoom(images.reshape(-1, 8, 8) / 16, (1, 2.5, 2.5), order=1)
    return np.pad(images, ((0, 0), (4, 4), (4, 4)))[:, None].astype(np.float32), labels
