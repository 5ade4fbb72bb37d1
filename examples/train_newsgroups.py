"""Train the source network of the text tutorial, a classifier of thirteen newsgroups.

`examples/text_transfer.py` calls this if it finds no trained network; ``python
examples/train_newsgroups.py`` trains it beforehand. It takes some minutes on two cores.
scikit-learn downloads the posts once (14 MB). The network and its words are kept in
``~/.cache/xfer``.

The network is from Kim (2014), Convolutional Neural Networks for Sentence Classification.
"""

import json
from pathlib import Path

from sklearn.datasets import fetch_20newsgroups
from tqdm.auto import tqdm

import xfer

import mxnet as mx  # isort: skip  (after xfer, so that it imports beside a newer NumPy too)

#: The groups that the network is not trained on.
TARGET_GROUPS = [
    "alt.atheism",
    "comp.sys.mac.hardware",
    "rec.autos",
    "rec.sport.hockey",
    "sci.electronics",
    "soc.religion.christian",
    "talk.politics.guns",
]
WORDS_A_POST = 300
BATCH_SIZE = 100


def trained(folder=None, epochs=3):
    """Return the prefix of the trained network's checkpoint, of epoch 0.

    Parameters
    ----------
    folder : path-like, default="~/.cache/xfer"
        Where the network is kept. It is trained if it is not there.
    epochs : int, default=3
        Training epochs.

    Returns
    -------
    pathlib.Path
        The file with ``-words.json`` added has the words, in the order of their ids.
    """
    folder = Path(folder or Path.home() / ".cache" / "xfer")
    prefix = folder / "newsgroups_cnn"
    file_of_words = folder / "newsgroups_cnn-words.json"
    if file_of_words.exists():
        return prefix
    texts, labels, groups = source_posts()
    common = xfer.Vocabulary(texts).id2word[:-2][:29998]  # its last two are reserved words
    words = ["</s>", "</ukw>", *common]
    vocabulary = xfer.Vocabulary.from_words(words)
    corpus = xfer.Corpus(texts, labels, vocabulary, fix_length=WORDS_A_POST)
    print(f"Training a source network on the other {len(groups)} groups: {corpus}")
    module = train(network(len(words), len(groups)), corpus, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    module.save_checkpoint(str(prefix), 0)
    # Last, because its presence says that the training is complete.
    file_of_words.write_text(json.dumps(words), encoding="utf-8")
    return prefix


def source_posts():
    """Return the posts of the thirteen groups, the index of each group, and the names."""
    every = fetch_20newsgroups(subset="all", random_state=0)
    groups = [name for name in every.target_names if name not in TARGET_GROUPS]
    kept = [every.target_names[index] in groups for index in every.target]
    texts = [text for text, keep in zip(every.data, kept) if keep]
    labels = [groups.index(every.target_names[n]) for n, k in zip(every.target, kept) if k]
    return texts, labels, groups


def network(vocabulary_size, groups):
    """Return the network: filters of width 3, 4 and 5, maximum over time."""
    net = mx.sym.Embedding(
        mx.sym.var("data"), input_dim=vocabulary_size, output_dim=128, name="vocab_embed"
    )
    net = mx.sym.swapaxes(net, dim1=1, dim2=2)  # words last, as one-dimensional filters want them
    pooled = []
    for width in (3, 4, 5):
        maps = mx.sym.Convolution(net, kernel=(width,), num_filter=100)
        maps = mx.sym.Activation(maps, act_type="relu")
        pooled.append(mx.sym.Pooling(maps, kernel=(1,), global_pool=True, pool_type="max"))
    net = mx.sym.Flatten(mx.sym.Concat(*pooled, dim=1))
    net = mx.sym.Dropout(net, p=0.5, name="dropout0")
    net = mx.sym.FullyConnected(net, num_hidden=groups)
    return mx.sym.SoftmaxOutput(net, name="softmax")


def train(symbol, corpus, epochs):
    """Train a network on a corpus and return its Module."""
    mx.random.seed(0)
    module = mx.mod.Module(symbol)
    iterator = mx.io.NDArrayIter(corpus.x, corpus.y, BATCH_SIZE, shuffle=True)
    module.bind(iterator.provide_data, iterator.provide_label)
    module.init_params(mx.init.Xavier())
    module.init_optimizer(optimizer="adam")
    accuracy = mx.metric.Accuracy()
    batches = -(-len(corpus) // BATCH_SIZE)
    for epoch in range(epochs):
        iterator.reset()
        accuracy.reset()
        bar = tqdm(iterator, total=batches, desc=f"epoch {epoch + 1}/{epochs}")
        for batch in bar:
            module.forward_backward(batch)
            module.update()
            module.update_metric(accuracy, batch.label)
            bar.set_postfix(accuracy=f"{accuracy.get()[1]:.3f}")
    return module


if __name__ == "__main__":
    print(f"The network is {trained()}.")
