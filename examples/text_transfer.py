"""
Seven newsgroups from a network for thirteen others
===================================================

A convolutional network (Kim 2014, `Convolutional Neural Networks for Sentence Classification
<https://aclanthology.org/D14-1181>`_) was trained on 13 of the 20 newsgroups. Here it is repurposed
to the other 7 with 100 of their posts: first by logistic regression on one layer, then by a mixture
of layers, words and posts without labels. The tutorial also looks at probabilities and uncertainty.

The network is the MXNet checkpoint ``models/newsgroups_cnn`` in the folder that the environment
variable ``XFER_TEST_DATA`` names. Without that variable, ``train_newsgroups.py`` in ``examples/``
trains one, which takes some minutes, and keeps it in ``~/.cache/xfer``. scikit-learn downloads the
posts once (14 MB). This script needs MXNet, because it opens the network as a Module;
``xfer.load_checkpoint`` would open it without.
"""

import json
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import fetch_20newsgroups
from sklearn.metrics import log_loss, roc_auc_score

import xfer
from xfer import plots

import mxnet as mx  # isort: skip  (after xfer, so that it imports beside a newer NumPy too)

try:  # tables, where these are installed
    from IPython.display import display
    from pandas import DataFrame
except ImportError:
    display, DataFrame = print, dict

LABELS = 100
TEST_POSTS = 2000
WORDS_A_POST = 300  # what the network was trained with
CACHE = Path.home() / ".cache" / "xfer" / "features.sqlite"

# %%
# The source network
# ------------------
# The network reads 300 word ids. It has filters for three, four and five consecutive words and
# takes the maximum of each over the post. The results are the 300 features of ``dropout0``; the
# last layers turn them into probabilities of 13 groups.

if "XFER_TEST_DATA" in os.environ:
    prefix = Path(os.environ["XFER_TEST_DATA"]) / "models" / "newsgroups_cnn"
else:
    from train_newsgroups import trained

    prefix = trained()
module = mx.mod.Module.load(str(prefix), 0)
words = json.loads(prefix.with_name("newsgroups_cnn-words.json").read_text(encoding="utf-8"))
vocabulary = xfer.Vocabulary.from_words(words)  # in the order of their ids

source = xfer.open_source(module)
print(source)

# %%
# The posts
# ---------
# All posts of the seven groups as word ids: 100 for fitting, and 2,000 of the others for testing.

posts = fetch_20newsgroups(
    subset="all",
    categories=[
        "alt.atheism",
        "comp.sys.mac.hardware",
        "rec.autos",
        "rec.sport.hockey",
        "sci.electronics",
        "soc.religion.christian",
        "talk.politics.guns",
    ],
    random_state=0,
)
groups = np.array(posts.target_names)
corpus = xfer.Corpus(posts.data, posts.target, vocabulary, fix_length=WORDS_A_POST)
x_train, x_others, y_train, y_others = corpus.split_train_test(LABELS, random_state=0)
x_test, y_test = x_others[:TEST_POSTS], y_others[:TEST_POSTS]
train_iter = mx.io.NDArrayIter(x_train, y_train, batch_size=100)
test_iter = mx.io.NDArrayIter(x_test, y_test, batch_size=100)
print(corpus)

# %%
# The network as it is
# --------------------
# Its outputs stand for other groups. If you read them as the new groups, accuracy is below chance.

scores = source.extract(test_iter, "softmax").matrix
before = (scores.argmax(axis=1) == y_test).mean()
print(f"accuracy before repurposing: {before:.3f}, of guessing: {1 / len(groups):.3f}")

# %%
# Repurposed
# ----------
# Fit logistic regression on the 300 features of ``dropout0``. You could also pass the Module, but
# then xfer would read it again.

repurposer = xfer.LrRepurposer(source, ["dropout0"])
repurposer.repurpose(train_iter)

# %%

after = (repurposer.predict_label(test_iter) == y_test).mean()
print(f"accuracy after repurposing: {after:.3f}")

# %%
# AutoRepurposer
# --------------
# ``AutoRepurposer`` finds layers by itself and fits several classifiers on each of them. As the
# data are ids of words, the words join in as one more layer. All other posts, without their labels,
# tell which posts are alike. How much each classifier counts follows from predictions of labelled
# posts by models that have not seen their label. With ``cache``, each post passes through the
# network once, and not at all when you run this again.

auto = xfer.AutoRepurposer(source, cache=CACHE)
auto.repurpose(train_iter, unlabelled=mx.io.NDArrayIter(x_others, batch_size=100))
best = (auto.predict_label(test_iter) == y_test).mean()
expected = auto.score_estimate_
print(f"accuracy of the mixture: {best:.2f}")
print(f"expected from the 100 labels: {expected.accuracy:.2f} ± {expected.accuracy_error:.2f}")

# %%
# Most of the weight is on the words, and half of all weight on graphs of posts, in which each post
# is linked to the ten most similar ones.

ax = plots.explanation(auto.explain())
ax.set_title("What the mixture listens to")
plt.show()

# %%
# A new text
# ----------
# This text is about electronics in cars, and cars are the most probable group. The output shows the
# start of the text as the network reads it.

TEXT = """
Electronics in cars. The engine of a modern car is run by a small computer: sensors measure the
speed, the temperature of the oil and the oxygen in the exhaust, and the circuit decides when each
spark plug fires and how much fuel is injected. The radio, the air bag, the dashboard display, the
alarm and the anti-lock brakes have circuits of their own, and all of them draw current from the
battery, which the alternator charges while you drive. When a ground wire is loose or a voltage
regulator fails, the dealer needs a scan tool to find the fault; an amateur with a voltmeter and a
wiring diagram can often find it as well.
"""
text = xfer.Corpus([TEXT], None, vocabulary, fix_length=WORDS_A_POST).x
print(" ".join(vocabulary.id2word[word] for word in text[0][:60]), "...")

ax = plots.class_probabilities(auto.predict_proba(text)[0], groups)
ax.set_title("A text on electronics in cars")
plt.show()

# %%
# All repurposers
# ---------------
# The other four fit one classifier each on the features of ``dropout0``. The log loss, in nats,
# measures accuracy and calibration together; lower is better, and guessing among seven groups has
# log 7 = 1.946.

repurposers = {"AutoRepurposer": auto}
for kind in (xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer):
    repurposers[kind.__name__] = kind(source, ["dropout0"], cache=CACHE).repurpose(train_iter)
probabilities = {
    name: repurposer.predict_probability(test_iter) for name, repurposer in repurposers.items()
}
hits = {name: p.argmax(axis=1) == y_test for name, p in probabilities.items()}
accuracies = {name: round(right.mean(), 3) for name, right in hits.items()}
losses = {name: round(log_loss(y_test, p), 3) for name, p in probabilities.items()}
display(DataFrame({"accuracy": accuracies, "log loss": losses}))

# %%
# Calibration
# -----------
# Of all predictions with a probability of 0.7, seven in ten should be right: the closer to the
# diagonal, the better. With so few labels the four on one layer are overconfident, and the mixture
# is a little too cautious; the calibration error says by how much.

figure, ax = plt.subplots(figsize=(6, 6), layout="constrained")
for name, found in probabilities.items():
    plots.reliability(y_test, found, repurposer.classes_, bins=10, name=name, ax=ax)
plt.show()

# %%
# Confusion matrix
# ----------------
# Rows are the true groups. Hockey is recognized best. Of the posts on electronics, about half are
# classified correctly, and most others as Macintosh hardware or cars.

predicted = probabilities["AutoRepurposer"].argmax(axis=1)
ax = plots.confusion_matrix(groups[y_test], groups[predicted], groups)
ax.set_title("AutoRepurposer")
plt.show()

# %%
# Uncertainty
# -----------
# The Gaussian process and the Bayesian network split their uncertainty in two. The aleatoric part
# remains with any number of labels, because the groups overlap. The epistemic part is due to
# missing labels, so it is higher on posts of groups without labels. Motorcycles are an exception:
# they are confidently classified as cars.

unseen = fetch_20newsgroups(
    subset="all",
    categories=["rec.motorcycles", "sci.med", "sci.space", "talk.politics.mideast"],
    random_state=0,
)
unseen_groups = np.array(unseen.target_names)[unseen.target][:500]
x_unseen = xfer.Corpus(unseen.data[:500], None, vocabulary, fix_length=WORDS_A_POST).x

gaussian_process = repurposers["GpRepurposer"]
uncertainty = gaussian_process.predict_uncertainty(np.concatenate([x_test, x_unseen]))
of_whom = ["the seven learned"] * len(y_test) + list(unseen_groups)
# sphinx_gallery_thumbnail_number = 5
ax = plots.uncertainty_split(uncertainty, of_whom)
ax.set_title("Posts of groups that were learned, and of others")
plt.show()

# %%
# How well does each value separate posts of unseen groups from the others? 0.5 is chance, 1 is
# perfect. The largest probability of logistic regression does not separate them. ``novelty`` is
# made for this: it combines the distance to the nearest group with the uncertainty.

x_all = np.concatenate([x_test, x_unseen])
is_unseen = np.arange(len(of_whom)) >= len(y_test)
least_sure = -repurposers["LrRepurposer"].predict_proba(x_all).max(axis=1)
told_apart = {
    "LrRepurposer, largest probability": roc_auc_score(is_unseen, least_sure),
    "GpRepurposer, total": roc_auc_score(is_unseen, uncertainty.total),
    "GpRepurposer, epistemic": roc_auc_score(is_unseen, uncertainty.epistemic),
    "GpRepurposer, novelty": roc_auc_score(is_unseen, gaussian_process.novelty(x_all)),
    "AutoRepurposer, novelty": roc_auc_score(is_unseen, auto.novelty(x_all)),
}
display(DataFrame({"area under the ROC curve": told_apart}))

# %%
# Save and load
# -------------
# One file holds the network, the layers and the fitted classifier. Loading it cannot run code and
# does not need MXNet.

with tempfile.TemporaryDirectory() as folder:
    file = gaussian_process.save_repurposer("newsgroups", folder)
    loaded = xfer.load("newsgroups", folder)
    print(f"{file.name}: {file.stat().st_size / 2**20:.1f} MiB")
same = np.array_equal(loaded.predict_proba(text), gaussian_process.predict_proba(text))
print("the same probabilities:", same)
