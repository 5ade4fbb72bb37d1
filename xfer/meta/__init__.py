"""Classifiers of feature matrices with few labels: scikit-learn estimators, no framework."""

from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.posterior import Uncertainty
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.meta.transferability import h_score, logme

__all__ = ["BayesianNetwork", "CalibratedLogisticRegression", "CalibratedSvm"]
__all__ += ["DirichletGaussianProcess", "Uncertainty", "h_score", "logme"]
