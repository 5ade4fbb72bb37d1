"""Seven newsgroups from a network that knows thirteen others, with a hundred labelled posts.

The text-transfer tutorial, complete. A convolutional network [1] was trained to tell 13 of the 20
newsgroups apart. Used as it is, it knows nothing of the other 7; repurposed with 100 of their
posts, it names more than half of the other 6,542 rightly.

Run with ``python examples/text_transfer.py``. The posts come through scikit-learn, which downloads
them once (14 MB). Without ``--checkpoint`` a source network is trained, which takes some minutes,
and kept in ``--cache``.

[1] Kim (2014), Convolutional Neural Networks for Sentence Classification.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_20newsgroups
from sklearn.metrics import log_loss
from tqdm.auto import tqdm

import xfer

import mxnet as mx  # isort: skip  (after xfer, so that it imports beside a newer NumPy too)

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
NEW_TEXT = """
Electronics in cars. The engine of a modern car is run by a small computer: sensors measure the
speed, the temperature of the oil and the oxygen in the exhaust, and the circuit decides when each
spark plug fires and how much fuel is injected. The radio, the air bag, the dashboard display, the
alarm and the anti-lock brakes have circuits of their own, and all of them draw current from the
battery, which the alternator charges while you drive. When a ground wire is loose or a voltage
regulator fails, the dealer needs a scan tool to find the fault; an amateur with a voltmeter and a
wiring diagram can often find it as well.
"""


def main(arguments=None):
    """Run the tutorial; return the accuracy before and after."""
    options = parse(arguments)
    if options.checkpoint is None:
        options.checkpoint = options.cache / "newsgroups_cnn"
        options.words = options.cache / "newsgroups_cnn-words.json"
        if not options.words.exists():
            train_source(options)

    # A) The pre-trained network, and the vocabulary it was trained with.
    module = mx.mod.Module.load(str(options.checkpoint), options.epoch)
    vocabulary = read_vocabulary(options.words)
    print(f"Source network {options.checkpoint}, {vocabulary}")

    # B) The posts of the seven groups it has not seen, as word ids: 100 to learn from.
    posts = fetch_20newsgroups(subset="all", categories=TARGET_GROUPS, random_state=0)
    corpus = xfer.Corpus(posts.data, posts.target, vocabulary, fix_length=WORDS_A_POST)
    x_train, x_test, y_train, y_test = corpus.split_train_test(options.labels, options.seed)
    x_test, y_test = x_test[: options.most], y_test[: options.most]
    train_iter = mx.io.NDArrayIter(x_train, y_train, BATCH_SIZE, shuffle=True)
    test_iter = mx.io.NDArrayIter(x_test, y_test, BATCH_SIZE)
    print(f"{corpus}; {len(y_train)} to learn from, {len(y_test)} to be tested on")

    # C) The network as it is: its 13 outputs mean other groups.
    module.bind(test_iter.provide_data, test_iter.provide_label, for_training=False)
    before = (module.predict(test_iter).asnumpy().argmax(axis=1) == y_test).mean()
    print(f"Accuracy before repurposing: {before:.3f}")

    # D) Repurposed: logistic regression on the 300 features of its layer `dropout0`.
    repurposer = xfer.LrRepurposer(module, ["dropout0"])
    repurposer.repurpose(train_iter)
    after = (repurposer.predict_label(test_iter) == y_test).mean()
    print(f"Accuracy after repurposing:  {after:.3f}")

    # E) A text of no newsgroup at all.
    new_corpus = xfer.Corpus([NEW_TEXT], None, vocabulary, fix_length=WORDS_A_POST)
    probabilities = repurposer.predict_proba(new_corpus.x)[0]
    for name, probability in sorted(zip(posts.target_names, probabilities), key=lambda p: -p[1]):
        print(f"  {name:24}{probability:.3f}")

    # F) Four kinds of repurposer: how often they are right, and how well they know it.
    predicted = {"LrRepurposer": repurposer.predict_probability(test_iter)}
    for kind in (xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer):
        repurposer = kind(module, ["dropout0"]).repurpose(train_iter)
        predicted[kind.__name__] = repurposer.predict_probability(test_iter)
        if hasattr(repurposer, "predict_uncertainty"):
            tell_uncertainty(repurposer, new_corpus.x, test_iter)
    print(f"{'':14}{'accuracy':>10}{'log loss':>10}")
    for name, found in predicted.items():
        hits = (found.argmax(axis=1) == y_test).mean()
        print(f"{name:14}{hits:10.3f}{log_loss(y_test, found, labels=range(7)):10.3f}")
    draw(options.picture, probabilities, posts.target_names, predicted, y_test)
    return before, after


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="prefix of a trained MXNet checkpoint")
    parser.add_argument("--epoch", type=int, default=0, help="its epoch (default: 0)")
    parser.add_argument("--words", type=Path, help="its words in the order of their ids, as JSON")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "xfer",
        help="where a network that is trained here is kept (default: ~/.cache/xfer)",
    )
    parser.add_argument("--labels", type=int, default=100, help="posts to learn from")
    parser.add_argument("--seed", type=int, default=0, help="of their draw")
    parser.add_argument("--most", type=int, help="posts to be tested on (default: all the others)")
    parser.add_argument("--train-epochs", type=int, default=3, help="if a network is trained")
    parser.add_argument("--picture", type=Path, default=Path("text_transfer.png"))
    options = parser.parse_args(arguments)
    if (options.checkpoint is None) != (options.words is None):
        parser.error("--checkpoint and --words go together")
    return options


def tell_uncertainty(repurposer, new, others):
    """Print how unsure the predictions of a new text and of many others are."""
    print(f"{type(repurposer).__name__}, in nats:  total  aleatoric  epistemic")
    for what, data in (("the text on electronics", new), ("other posts, mean", others)):
        total, aleatoric, epistemic = np.mean(repurposer.predict_uncertainty(data), axis=1)
        print(f"  {what:24}{total:6.2f}{aleatoric:11.2f}{epistemic:11.2f}")


def read_vocabulary(path):
    """Read the words in the order of their ids."""
    words = json.loads(path.read_text(encoding="utf-8"))
    return xfer.Vocabulary.from_words(words["id2word"] if isinstance(words, dict) else words)


def train_source(options):
    """Train a source network on the other thirteen groups, and keep it with its words."""
    every = fetch_20newsgroups(subset="all", random_state=0)
    groups = [name for name in every.target_names if name not in TARGET_GROUPS]
    kept = [every.target_names[number] in groups for number in every.target]
    texts = [text for text, keep in zip(every.data, kept) if keep]
    labels = [groups.index(every.target_names[n]) for n, k in zip(every.target, kept) if k]
    common = xfer.Vocabulary(texts).id2word[:-2][:29998]  # its last two are reserved words
    words = ["</s>", "</ukw>", *common]
    vocabulary = xfer.Vocabulary.from_words(words)
    corpus = xfer.Corpus(texts, labels, vocabulary, fix_length=WORDS_A_POST)
    print(f"Training a source network on the other {len(groups)} groups: {corpus}")

    mx.random.seed(0)
    module = mx.mod.Module(network(len(words), len(groups)))
    iterator = mx.io.NDArrayIter(corpus.x, corpus.y, BATCH_SIZE, shuffle=True)
    module.bind(iterator.provide_data, iterator.provide_label)
    module.init_params(mx.init.Xavier())
    module.init_optimizer(optimizer="adam")
    accuracy = mx.metric.Accuracy()
    batches = -(-len(corpus) // BATCH_SIZE)
    for epoch in range(options.train_epochs):
        iterator.reset()
        accuracy.reset()
        bar = tqdm(iterator, total=batches, desc=f"epoch {epoch + 1}/{options.train_epochs}")
        for batch in bar:
            module.forward_backward(batch)
            module.update()
            module.update_metric(accuracy, batch.label)
            bar.set_postfix(accuracy=f"{accuracy.get()[1]:.3f}")
    options.cache.mkdir(parents=True, exist_ok=True)
    module.save_checkpoint(str(options.checkpoint), options.epoch)
    # Last, for its presence says that all is there.
    options.words.write_text(json.dumps(words), encoding="utf-8")


def network(vocabulary_size, groups):
    """Return the network of Kim (2014): filters of width 3, 4 and 5, maximum over time."""
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


def draw(path, probabilities, names, predicted, labels):
    """Draw the probabilities of the new text, and how far all can be trusted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from xfer import plots

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    plots.class_probabilities(probabilities, names, ax=left)
    left.set_title("LrRepurposer: what is a text on electronics in cars about?")
    for name, found in predicted.items():
        plots.reliability(found, labels, range(7), bins=10, name=name, ax=right)
    right.set_title(f"{len(labels):,} other posts")
    figure.savefig(path, dpi=130)
    print(f"The picture is in {path}.")


if __name__ == "__main__":
    main(sys.argv[1:])
