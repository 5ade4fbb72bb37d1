"""Classifiers for feature matrices with few labels: scikit-learn estimators, no framework."""

import importlib

# Resolved on first use: who wants one of them need not wait for the others.
_PUBLIC = {
    "CalibratedLogisticRegression": "logistic_regression",
    "CalibratedSvm": "support_vector_machine",
    "DirichletGaussianProcess": "gaussian_process",
    "BayesianNetwork": "bayesian_network",
    "Uncertainty": "posterior",
}

__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xfer.meta' has no attribute {name!r}")
    return getattr(importlib.import_module(f"xfer.meta.{_PUBLIC[name]}"), name)
