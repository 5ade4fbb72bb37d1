"""Our Gaussian process and Bayesian network against those that one can install today.

Run with ``python benchmarks/posteriors.py [SIZES]`` after ``pip install '.[benchmarks]'``.

Every fit has a process of its own, so that memory is its own: what it adds to the features.
The table that it printed last stands in docs/benchmarks.md.
"""

import multiprocessing
import resource
import sys
import time
import warnings

import numpy as np
from sources import module, newsgroups

import xfer
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm

SAMPLES = 512


def main(*sizes):
    """Print the table of the fixed split."""
    order = np.random.RandomState(0).permutation(6642)
    features, numbers = newsgroup_features()
    test = order[1000:3000]
    print("| labels | | fit s | predict 2,000 s | accuracy | log loss | ECE | memory MB |")
    print("| --- " * 8 + "|")
    for size in sizes or (100, 500, 1000):
        train = order[:size]
        for name, fit in CLASSIFIERS.items():
            cells = apart(run, fit, features[train], numbers[train], features[test], numbers[test])
            print(f"| {size:,} | {name} | {cells} |", flush=True)


def newsgroup_features():
    """Return features (6642, 300) of layer dropout0, and numbers of the groups."""
    ids, names = newsgroups()
    source = xfer.open_source(module("newsgroups_cnn"))
    features = source.extract(ids, "dropout0", progress=True).matrix.astype(float)
    return features, np.unique(names, return_inverse=True)[1]


def apart(function, *arguments):
    """Call a function in a process of its own and return what it returns."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def run(fit, X, y, test, truth):
    """Return a row of the table; the first, small fit is for what is imported late."""
    warnings.filterwarnings("ignore")
    fit(X[:60], np.resize(np.arange(3), 60))(test[:5])
    before, start = peak(), time.perf_counter()
    predict = fit(X, y)
    seconds, start = time.perf_counter() - start, time.perf_counter()
    probabilities = predict(test)
    return row(probabilities, truth, seconds, time.perf_counter() - start, peak() - before)


def peak():
    """Return the most memory this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(probabilities, truth, fit_seconds, predict_seconds, memory):
    """Format the figures of one fit."""
    figures = accuracy, loss, error = measures(probabilities, truth)
    assert np.isfinite(figures).all()
    return (
        f"{fit_seconds:.2f} | {predict_seconds:.3f} | {accuracy:.4f} | {loss:.3f} | {error:.3f} | "
        f"{memory:.0f}"
    )


def measures(probabilities, truth, bins=15):
    """Return accuracy, log loss, and expected calibration error in 15 bins."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-15)).mean()
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, hit - confidence, minlength=bins)
    return hit.mean(), loss, np.abs(gaps).sum() / len(truth)


def ours(classifier):
    """Return a function that fits it and returns its ``predict_proba``."""

    def fit(X, y):
        return classifier().fit(X, y).predict_proba

    fit.__qualname__ = fit.__name__ = f"fit_{classifier.__name__}"
    globals()[fit.__name__] = fit  # by this name another process finds it
    return fit


def centred(X):
    """Return a function that centres on these rows and scales to length 1, as the peers want."""
    mean = X.mean(axis=0)

    def scale(rows):
        rows = rows - mean
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    return scale


def fit_scikit_learn(X, y):
    """Fit scikit-learn's GaussianProcessClassifier: one against the rest, Laplace."""
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    scale = centred(X)
    model = GaussianProcessClassifier(ConstantKernel(1.0) * RBF(1.0), random_state=0)
    model.fit(scale(X), y)
    return lambda rows: model.predict_proba(scale(rows))


def fit_gpytorch(X, y, steps=50):
    """Fit GPyTorch's Dirichlet classification: exact, 50 steps of Adam."""
    import gpytorch
    import torch

    torch.manual_seed(0)
    scale = centred(X)
    inputs, labels = torch.tensor(scale(X)), torch.tensor(y)
    likelihood = gpytorch.likelihoods.DirichletClassificationLikelihood(
        labels, alpha_epsilon=0.01, dtype=torch.float64, learn_additional_noise=False
    )
    shape = torch.Size((likelihood.num_classes,))

    class Model(gpytorch.models.ExactGP):
        def __init__(self):
            super().__init__(inputs, likelihood.transformed_targets, likelihood)
            self.mean = gpytorch.means.ConstantMean(batch_shape=shape)
            kernel = gpytorch.kernels.RBFKernel(batch_shape=shape)
            self.kernel = gpytorch.kernels.ScaleKernel(kernel, batch_shape=shape)

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    model = Model().double()
    model.train()
    likelihood.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    bound = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = -bound(model(inputs), likelihood.transformed_targets).sum()
        loss.backward()
        optimiser.step()
    model.eval()
    likelihood.eval()

    def predict(rows):
        with torch.no_grad():
            found = model(torch.tensor(scale(rows)))
            mean, deviation = found.mean.T, found.variance.sqrt().T
            noise = torch.randn(SAMPLES, *mean.shape, dtype=torch.float64)
            return torch.softmax(mean + deviation * noise, -1).mean(0).numpy()

    return predict


def fit_laplace(X, y):
    """Fit laplace-torch on the last layer of a perceptron of 64 units."""
    import torch
    from laplace import Laplace
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    scale = centred(X)
    inputs, labels = torch.tensor(scale(X), dtype=torch.float32), torch.tensor(y)
    network = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, int(y.max()) + 1)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=1e-3)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs), labels).backward()
        optimiser.step()
    model = Laplace(network, "classification", "last_layer", "kron")
    model.fit(DataLoader(TensorDataset(inputs, labels), batch_size=256))
    model.optimize_prior_precision(method="marglik")

    def predict(rows):
        new = torch.tensor(scale(rows), dtype=torch.float32)
        return model(new, link_approx="mc", n_samples=SAMPLES).detach().double().numpy()

    return predict


CLASSIFIERS = {
    "xfer, Gaussian process": ours(DirichletGaussianProcess),
    "xfer, Bayesian network": ours(BayesianNetwork),
    "xfer, logistic regression": ours(CalibratedLogisticRegression),
    "xfer, SVM": ours(CalibratedSvm),
    "GPyTorch, Dirichlet": fit_gpytorch,
    "scikit-learn GPC": fit_scikit_learn,
    "laplace-torch, last layer": fit_laplace,
}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
