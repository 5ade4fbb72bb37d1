"""Our Gaussian process and Bayesian network against other packages that one can install.

Run with ``python benchmarks/posteriors.py [SIZES]`` after ``pip install '.[benchmarks]'``.
Its latest table is in docs/benchmarks.md.

Every fit runs in its own process, to measure the memory it adds to that of the features.
"""

import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sources import module, newsgroups

import xfer
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm

SAMPLES = 512


Predict = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predict]


def main(*sizes: int) -> None:
    """Print the table of the fixed split."""
    order = np.random.RandomState(0).permutation(6642)
    features, labels = newsgroup_features()
    test = order[1000:3000]
    print("| labels | | fit s | predict 2,000 s | accuracy | log loss | ECE | memory MB |")
    print("| --- " * 8 + "|")
    for size in sizes or (100, 500, 1000):
        train = order[:size]
        for name, fit in CLASSIFIERS.items():
            cells = apart(run, fit, features[train], labels[train], features[test], labels[test])
            print(f"| {size:,} | {name} | {cells} |", flush=True)


def newsgroup_features() -> tuple[np.ndarray, np.ndarray]:
    """Return features (6642, 300) of layer dropout0, and the class index of each post."""
    ids, names = newsgroups()
    source = xfer.open_source(module("newsgroups_cnn"))
    features = source.extract(ids, "dropout0", progress=True).matrix.astype(float)
    return features, np.unique(names, return_inverse=True)[1]


def apart(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def run(fit: Fit, X: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> str:
    """Return a row of the table; a small fit first imports what is imported late."""
    warnings.filterwarnings("ignore")
    fit(X[:60], np.resize(np.arange(3), 60))(test[:5])
    before, start = peak(), time.perf_counter()
    predict = fit(X, y)
    seconds, start = time.perf_counter() - start, time.perf_counter()
    probabilities = predict(test)
    return row(probabilities, truth, seconds, time.perf_counter() - start, peak() - before)


def peak() -> float:
    """Return the peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(
    probabilities: np.ndarray,
    truth: np.ndarray,
    fit_seconds: float,
    predict_seconds: float,
    memory: float,
) -> str:
    """Format the results of one fit."""
    accuracy, loss, error = measures(probabilities, truth)
    assert np.isfinite([accuracy, loss, error]).all()
    return (
        f"{fit_seconds:.2f} | {predict_seconds:.3f} | {accuracy:.4f} | {loss:.3f} | {error:.3f} | "
        f"{memory:.0f}"
    )


def measures(
    probabilities: np.ndarray, truth: np.ndarray, bins: int = 15
) -> tuple[float, float, float]:
    """Return accuracy, log loss, and expected calibration error."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-15)).mean()
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, hit - confidence, minlength=bins)
    return hit.mean(), loss, np.abs(gaps).sum() / len(truth)


def ours(classifier: Any) -> Fit:
    """Return a function that fits the classifier and returns its ``predict_proba``."""

    def fit(X: np.ndarray, y: np.ndarray) -> Predict:
        return classifier().fit(X, y).predict_proba

    fit.__qualname__ = fit.__name__ = f"fit_{classifier.__name__}"
    globals()[fit.__name__] = fit  # so that another process can import it
    return fit


def centred(X: np.ndarray) -> Predict:
    """Return a function that centres rows on the mean of X and scales them to length 1."""
    mean = X.mean(axis=0)

    def scale(rows: np.ndarray) -> np.ndarray:
        rows = rows - mean
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

    return scale


def fit_scikit_learn(X: np.ndarray, y: np.ndarray) -> Predict:
    """Fit scikit-learn's GaussianProcessClassifier: one-vs-rest, Laplace approximation."""
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    scale = centred(X)
    model = GaussianProcessClassifier(ConstantKernel(1.0) * RBF(1.0), random_state=0)
    model.fit(scale(X), y)
    return lambda rows: model.predict_proba(scale(rows))


def fit_gpytorch(X: np.ndarray, y: np.ndarray, steps: int = 50) -> Predict:
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
        def __init__(self) -> None:
            super().__init__(inputs, likelihood.transformed_targets, likelihood)
            self.mean = gpytorch.means.ConstantMean(batch_shape=shape)
            kernel = gpytorch.kernels.RBFKernel(batch_shape=shape)
            self.kernel = gpytorch.kernels.ScaleKernel(kernel, batch_shape=shape)

        def forward(self, x: Any) -> Any:
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

    def predict(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            scores = model(torch.tensor(scale(rows)))
            mean, deviation = scores.mean.T, scores.variance.sqrt().T
            noise = torch.randn(SAMPLES, *mean.shape, dtype=torch.float64)
            return torch.softmax(mean + deviation * noise, -1).mean(0).numpy()

    return predict


def fit_laplace(X: np.ndarray, y: np.ndarray) -> Predict:
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

    def predict(rows: np.ndarray) -> np.ndarray:
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
