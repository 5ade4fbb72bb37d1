"""
Handwritten digits from a network for printed letters
=====================================================

A small convolutional network learns the 26 capital letters, printed in the fonts that Matplotlib
brings. Then it is repurposed to handwritten digits, with ten labels each. The tutorial covers the
choice of a layer, typical errors and uncertainty.

It needs ``pip install '.[torch,plots]'`` in a checkout, downloads nothing, and takes a minute.
"""

import string
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split

import xfer
from xfer import plots

try:  # tables, where these are installed
    from IPython.display import display
    from pandas import DataFrame
except ImportError:
    display, DataFrame = print, dict

# %%
# Printed letters
# ---------------
# Each letter is drawn eight times per font, turned by up to 15 degrees, reduced to 8 x 8 pixels,
# and put at a random place on a canvas of 16 x 16.

folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
fonts = sorted(folder.glob("DejaVuS*[!y].ttf")) + sorted(folder.glob("STIXGeneral*.ttf"))
random = np.random.RandomState(0)


def drawn(letter, font):
    """Draw a letter on 8 x 8 pixels, from 0 to 1."""
    large = Image.new("L", (96, 96))
    place = {"anchor": "mm", "font": ImageFont.truetype(str(font), 48)}
    ImageDraw.Draw(large).text((48, 48), letter, fill=255, **place)
    large = large.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR)
    large = large.crop(large.getbbox())
    width, height = (max(3, round(8 * size / max(large.size))) for size in large.size)
    small = Image.new("L", (8, 8))
    resized = large.resize((width, height), Image.Resampling.BOX)
    small.paste(resized, ((8 - width) // 2, (8 - height) // 2))
    return np.asarray(small) / 255


letters = [letter for letter in string.ascii_uppercase for _ in range(8 * len(fonts))]
pictures = [drawn(letter, fonts[index % len(fonts)]) for index, letter in enumerate(letters)]
pictures, letters = xfer.example.scatter(pictures), np.array(letters)

# %%
# Handwritten digits
# ------------------
# Of the digits, a hundred have labels. The others are for testing.

images, digits = xfer.example.digits()
x_train, x_test, y_train, y_test = train_test_split(
    images, digits, train_size=100, stratify=digits, random_state=0
)

figure, panels = plt.subplots(4, 13, figsize=(8, 2.8), layout="constrained")
shown = [*pictures[:: 8 * len(fonts)], *x_train[:26]]
for panel, picture in zip(panels.flat, shown):
    panel.imshow(picture[0], cmap="gray_r")
    panel.axis("off")
plt.show()

# %%
# The network
# -----------
# Three convolutions, and the maximum over the canvas. It learns the letters in five epochs.


def block(before, after):
    """Return a convolution with what usually follows it."""
    convolution = torch.nn.Conv2d(before, after, 3, padding=1)
    return torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(after), torch.nn.ReLU())


torch.manual_seed(0)
network = torch.nn.Sequential(
    block(1, 24),
    torch.nn.MaxPool2d(2),
    block(24, 48),
    torch.nn.MaxPool2d(2),
    block(48, 96),
    torch.nn.AdaptiveMaxPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(96, 26),
)
optimizer = torch.optim.Adam(network.parameters(), lr=0.002)
x, y = torch.tensor(pictures), torch.tensor(np.unique(letters, return_inverse=True)[1])
for _epoch in range(5):
    for rows in torch.randperm(len(x)).split(100):
        loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

source = xfer.open_source(network)
scores = source.extract(pictures, "output").matrix
as_it_is = (scores.argmax(axis=1) == y.numpy()).mean()
print(f"accuracy on the letters: {as_it_is:.3f}")
print(source)

# %%
# Repurposed
# ----------
# Without a layer name, xfer takes the last layer before the scores: here ``5``, the maximum over
# the canvas. The baseline is logistic regression on the pixels.

found = {"accuracy": {}, "log loss": {}}


def measure(name, classifier, examples=x_test):
    """Note the accuracy and log loss of a fitted classifier on the test pictures."""
    probabilities = classifier.predict_proba(examples)
    hits = classifier.classes_[probabilities.argmax(axis=1)] == y_test
    found["accuracy"][name] = round(hits.mean(), 3)
    found["log loss"][name] = round(log_loss(y_test, probabilities), 3)


pixels, pixels_test = x_train.reshape(len(x_train), -1), x_test.reshape(len(x_test), -1)
measure("pixels", LogisticRegression(max_iter=1000).fit(pixels, y_train), pixels_test)
repurposer = xfer.LrRepurposer(source).fit(x_train, y_train)
measure("LrRepurposer", repurposer)
print(repurposer.features_)
display(DataFrame(found))

# %%
# Which layer
# -----------
# The last layers separate the letters, and the first are close to the pixels. Cross-validation on
# the hundred labels compares the layers, with each map reduced to its mean, its maximum, or both.
# The best of layers ``2`` to ``4`` differ by less than one standard deviation.

search = GridSearchCV(
    xfer.LrRepurposer(source),
    {"feature_layer_names": ["1", "2", "3", "4"], "pooling": ["mean", "max", "mean+max"]},
    cv=5,
)
search.fit(x_train, y_train)
print(search.best_params_)
plots.layer_comparison(search)
plt.show()

# %%
# What the search found is no better on the test pictures than the default layer: ten labels per
# digit are too few to choose. ``AutoRepurposer`` does not choose. It mixes classifiers of several
# layers, and can learn from the test pictures without their labels.

gaussian_process = xfer.GpRepurposer(source, **search.best_params_).fit(x_train, y_train)
auto = xfer.AutoRepurposer(source).fit(x_train, y_train)
with_unlabelled = xfer.AutoRepurposer(source).fit(x_train, y_train, unlabelled=x_test)
measure("LrRepurposer on the best layer", search)
measure("GpRepurposer on the best layer", gaussian_process)
measure("AutoRepurposer", auto)
measure("AutoRepurposer, with unlabelled digits", with_unlabelled)
display(DataFrame(found))

# %%
# What the layers see
# -------------------
# These are test pictures of four digits on the first two principal components.

some = np.isin(y_test, [0, 1, 4, 7])
figure, panels = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
plots.features_2d(pixels_test[some], y_test[some], ax=panels[0])
panels[0].set_title("pixels")
panels[0].get_legend().remove()
plots.features_2d(repurposer.features_.transform(x_test[some]), y_test[some], ax=panels[1])
panels[1].set_title("the last layer before the scores")
plt.show()

# %%
# Most and least sure
# -------------------
# Top: two pictures that the mixture is most sure of. Bottom: two where the two largest
# probabilities are closest.

probabilities = auto.predict_proba(x_test)
runner_up, winner = np.sort(probabilities, axis=1)[:, -2:].T
by_margin = np.argsort(winner - runner_up)
shown = [*by_margin[:-3:-1], *by_margin[:2]]
# sphinx_gallery_thumbnail_number = 4
figure, panels = plt.subplots(2, 4, figsize=(9.5, 5.2), layout="constrained")
for (picture, bars), row in zip(panels.reshape(4, 2), shown):
    picture.imshow(x_test[row, 0], cmap="gray_r")
    picture.set_title(f"in truth: {y_test[row]}", fontsize=11)
    picture.axis("off")
    plots.class_probabilities(probabilities[row], auto.classes_, ax=bars)
    bars.set(xticks=[0, 0.5, 1], ylabel="")
plt.show()

# %%
# Confusion matrix
# ----------------
# Rows are the true digits. A nine is most often mistaken, for a three.

plots.confusion_matrix(y_test, auto.predict(x_test))
plt.show()

# %%
# What it does not know
# ---------------------
# Letters are no digits, but every classifier has to name one. ``novelty`` is higher on most letters
# than on digits, though the network was made for letters. O and I look like digits, and are not
# among the letters here.

is_other = ~np.isin(letters, ["O", "I"])
of_letters = pictures[is_other][::8]
both = np.concatenate([x_test, of_letters])
is_letter = np.arange(len(both)) >= len(x_test)
told_apart = roc_auc_score(is_letter, auto.novelty(both))
print(f"letters told from digits: area under the ROC curve {told_apart:.2f}")

uncertainty = gaussian_process.predict_uncertainty(both)
plots.uncertainty_split(uncertainty, np.where(is_letter, "letters", "digits"))
plt.show()
