"""Classifiers of feature matrices with few labels: scikit-learn estimators, no framework."""

import importlib
from typing import TYPE_CHECKING, Any

# Each name is imported on first use, so that nobody waits for the others.
if TYPE_CHECKING:
    from xfer.meta.bayesian_network import BayesianNetwork as BayesianNetwork
    from xfer.meta.gaussian_process import DirichletGaussianProcess as DirichletGaussianProcess
    from xfer.meta.logistic_regression import (
        CalibratedLogisticRegression as CalibratedLogisticRegression,
    )
    from xfer.meta.posterior import Uncertainty as Uncertainty
    from xfer.meta.support_vector_machine import CalibratedSvm as CalibratedSvm
else:
    _FILES = {
        "BayesianNetwork": "bayesian_network",
        "CalibratedLogisticRegression": "logistic_regression",
        "CalibratedSvm": "support_vector_machine",
        "DirichletGaussianProcess": "gaussian_process",
        "Uncertainty": "posterior",
    }
    __all__ = list(_FILES)

    # Not seen by type checkers, which would otherwise accept any name.
    def __getattr__(name: str) -> Any:
        if name not in _FILES:
            raise AttributeError(f"module 'xfer.meta' has no attribute {name!r}")
        return getattr(importlib.import_module(f"xfer.meta.{_FILES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
