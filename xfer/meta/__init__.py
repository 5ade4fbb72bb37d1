"""Classifiers and a regressor of feature matrices with few labels, without any framework."""

from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.mixture import MixtureClassifier
from xfer.meta.posterior import Uncertainty
from xfer.meta.ridge import WhitenedRidge
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.meta.transferability import h_score, logme
from xfer.meta.whitening import PartialWhitening

__all__ = ["BayesianNetwork", "CalibratedLogisticRegression", "CalibratedSvm"]
__all__ += ["DirichletGaussianProcess", "MixtureClassifier", "PartialWhitening", "Uncertainty"]
__all__ += ["WhitenedRidge", "h_score", "logme"]
