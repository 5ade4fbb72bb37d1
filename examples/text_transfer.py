"""
Seven newsgroups from a network for thirteen others
===================================================

A convolutional network (Kim 2014, `Convolutional Neural Networks for Sentence Classification
<https://aclanthology.org/D14-1181>`_) learns 13 of the 20 newsgroups. Then it is repurposed to the
other 7 with 100 of their posts: first by logistic regression on one layer, then by a mixture of
layers, words and posts without labels. The tutorial also looks at probabilities and uncertainty.

It needs ``pip install '.[torch,plots]'`` in a checkout, and takes about two minutes on two cores.
scikit-learn downloads the posts once (14 MB).
"""

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import fetch_20newsgroups
from sklearn.metrics import log_loss, roc_auc_score

import xfer
from xfer import plots

try:  # tables, where these are installed
    from IPython.display import display
    from pandas import DataFrame
except ImportError:
    display, DataFrame = print, dict

NEW_GROUPS = [
    "alt.atheism",
    "comp.sys.mac.hardware",
    "rec.autos",
    "rec.sport.hockey",
    "sci.electronics",
    "soc.religion.christian",
    "talk.politics.guns",
]
LABELS = 100
TEST_POSTS = 2000
WORDS = 20_000
WORDS_A_POST = 200

# %%
# The source network
# ------------------
# The network reads 200 word ids. It has filters for three, four and five consecutive words and
# takes the maximum of each over the post. The results are the 192 features of ``dropout``; the last
# layer turns them into scores of 13 groups. It learns from all posts of these groups.

posts = fetch_20newsgroups(subset="all", random_state=0)
texts, names = np.array(posts.data, dtype=object), np.array(posts.target_names)[posts.target]
is_new = np.isin(names, NEW_GROUPS)
old_groups, old_labels = np.unique(names[~is_new], return_inverse=True)
words = xfer.Vocabulary(texts[~is_new]).id2word  # the most frequent first
vocabulary = xfer.Vocabulary.from_words([*words[: WORDS - 2], "</s>", "</ukw>"])


class TextNetwork(torch.nn.Module):
    """Filters of several widths, and the maximum of each over the words."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, 64)
        torch.nn.init.normal_(self.embedding.weight, std=0.1)
        self.filters = torch.nn.ModuleList(torch.nn.Conv1d(64, 64, width) for width in (3, 4, 5))
        self.dropout = torch.nn.Dropout(0.5)
        self.scores = torch.nn.Linear(3 * 64, len(old_groups))

    def forward(self, ids):
        """Return the scores of posts, (n, 13), for ids of shape (n, words)."""
        words = self.embedding(ids).transpose(1, 2)
        found = [filters(words).amax(dim=2).relu() for filters in self.filters]
        return self.scores(self.dropout(torch.cat(found, dim=1)))


torch.manual_seed(0)
network = TextNetwork()
optimizer = torch.optim.Adam(network.parameters(), lr=0.004)
ids = torch.tensor(xfer.Corpus(texts[~is_new], None, vocabulary, fix_length=WORDS_A_POST).x).long()
for _epoch in range(2):
    for rows in torch.randperm(len(ids)).split(100):
        loss = torch.nn.functional.cross_entropy(network(ids[rows]), torch.tensor(old_labels)[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %%
# Any trained network can take its place: a PyTorch module, an ONNX file, or an MXNet checkpoint,
# with ``source = xfer.load_checkpoint("folder/prefix", epoch)``. Once it has seen a post, the table
# of layers has their shapes. ``cache_key`` is a name for this version of the network's code, which
# cannot be read from a notebook.

source = xfer.open_source(network, cache_key="two epochs")
source.extract(ids[:1].numpy(), "scores")
print(source)

# %%
# The posts
# ---------
# All posts of the seven groups as word ids: 100 for fitting, and 2,000 of the others for testing.

groups, labels = np.unique(names[is_new], return_inverse=True)
corpus = xfer.Corpus(texts[is_new], labels, vocabulary, fix_length=WORDS_A_POST)
x_train, x_others, y_train, y_others = corpus.split_train_test(LABELS, random_state=0)
x_test, y_test = x_others[:TEST_POSTS], y_others[:TEST_POSTS]
print(corpus)

# %%
# The network as it is
# --------------------
# Its outputs stand for other groups. If you read them as the new groups, accuracy is below chance.

scores = source.extract(x_test, "scores").matrix
before = (scores.argmax(axis=1) == y_test).mean()
print(f"accuracy before repurposing: {before:.3f}, of guessing: {1 / len(groups):.3f}")

# %%
# Repurposed
# ----------
# Fit logistic regression on the 192 features of ``dropout``, the layer marked "default".

repurposer = xfer.LrRepurposer(source).fit(x_train, y_train)

# %%

after = repurposer.score(x_test, y_test)
print(f"accuracy after repurposing: {after:.3f}")

# %%
# AutoRepurposer
# --------------
# ``AutoRepurposer`` finds layers by itself and fits several classifiers on each of them. As the
# data are ids of words, the words join in as one more layer. All other posts, without their labels,
# tell which posts are alike. How much each classifier counts follows from predictions of labelled
# posts by models that have not seen their label.

auto = xfer.AutoRepurposer(source).fit(x_train, y_train, unlabelled=x_others)
best = auto.score(x_test, y_test)
expected = auto.score_estimate_
print(f"accuracy of the mixture: {best:.2f}")
print(f"expected from the 100 labels: {expected.accuracy:.2f} ± {expected.accuracy_error:.2f}")

# %%
# Weights need not add up to 1. Over half is on words, and two thirds on graphs of posts, in
# which each post is linked to the ten most similar ones.

ax = plots.explanation(auto.explain())
ax.set_title("What the mixture listens to")
plt.show()

# %%
# A new text
# ----------
# This text is about electronics in cars, and electronics is the most probable group. The output
# shows the start of the text as the network reads it.

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
# The other four fit one classifier each on the features of ``dropout``. The log loss, in nats,
# measures accuracy and calibration together; lower is better, and guessing among seven groups has
# log 7 = 1.946.

repurposers = {"AutoRepurposer": auto}
for kind in (xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer):
    repurposers[kind.__name__] = kind(source).fit(x_train, y_train)
probabilities = {name: one.predict_proba(x_test) for name, one in repurposers.items()}
hits = {name: p.argmax(axis=1) == y_test for name, p in probabilities.items()}
accuracies = {name: round(right.mean(), 3) for name, right in hits.items()}
losses = {name: round(log_loss(y_test, p), 3) for name, p in probabilities.items()}
display(DataFrame({"accuracy": accuracies, "log loss": losses}))

# %%
# Calibration
# -----------
# Of all predictions with a probability of 0.7, seven in ten should be right: the closer to the
# diagonal, the better. The calibration error is the mean distance from it. Faint points have few
# examples.

figure, ax = plt.subplots(figsize=(6, 6), layout="constrained")
for name, found in probabilities.items():
    plots.reliability(y_test, found, repurposer.classes_, bins=10, name=name, ax=ax)
plt.show()

# %%
# Confusion matrix
# ----------------
# Rows are the true groups. Hockey is recognized best. Of the posts on electronics, about half are
# classified correctly, and a third as Macintosh hardware.

predicted = probabilities["AutoRepurposer"].argmax(axis=1)
# sphinx_gallery_thumbnail_number = 4
ax = plots.confusion_matrix(groups[y_test], groups[predicted], groups)
ax.set_title("AutoRepurposer")
plt.show()

# %%
# Uncertainty
# -----------
# The Gaussian process and the Bayesian network split their uncertainty in two. The aleatoric part
# remains with any number of labels, because the groups overlap. The epistemic part is due to
# missing labels, so it is higher on posts of groups without labels.

UNSEEN = ["rec.motorcycles", "sci.med", "sci.space", "talk.politics.mideast"]
unseen = np.flatnonzero(np.isin(names, UNSEEN))[:500]
x_unseen = xfer.Corpus(texts[unseen], None, vocabulary, fix_length=WORDS_A_POST).x

gaussian_process = repurposers["GpRepurposer"]
uncertainty = gaussian_process.predict_uncertainty(np.concatenate([x_test, x_unseen]))
of_whom = ["the seven learned"] * len(y_test) + list(names[unseen])
ax = plots.uncertainty_split(uncertainty, of_whom)
ax.set_title("Posts of groups that were learned, and of others")
plt.show()

# %%
# How well does each value separate posts of unseen groups from the others? 0.5 is chance, 1 is
# perfect. The largest probability of logistic regression does so poorly. ``novelty`` is
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
# The file holds the layers and the fitted classifier. A PyTorch network is code, which a safe file
# cannot hold, so give it again. Networks of MXNet and ONNX go into the file.

with tempfile.TemporaryDirectory() as folder:
    file = gaussian_process.save_repurposer("newsgroups", folder, save_source_model=False)
    loaded = xfer.load("newsgroups", folder, source_model=source)
    print(f"{file.name}: {file.stat().st_size / 2**20:.1f} MiB")
same = np.array_equal(loaded.predict_proba(text), gaussian_process.predict_proba(text))
print("the same probabilities:", same)
