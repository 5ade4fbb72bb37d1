"""scikit-learn's own checks of estimators, and why those that do not apply do not."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import estimator_checks_generator

import xfer
from xfer.sources import Layer, SourceModel


class Identity(SourceModel):
    """Not a network: matrices of any number of columns as they are."""

    layers = [Layer("same", "identity", None, 0)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        if inputs["data"].ndim != 2:
            raise ValueError(f"a matrix is needed, got shape {inputs['data'].shape}")
        return [inputs["data"].astype(np.float32)]


SOURCE = Identity()
FIT_OPENS = "fit opens the network and computes nothing: transform refuses such data"
ANY_LENGTH = "the network decides how many columns it takes: sequences may have any length"
COPIES = "check_sample_weight_equivalence_on_dense_data"
NOT_APPLYING = {
    xfer.LayerFeatures: {
        "check_estimators_empty_data_messages": FIT_OPENS,
        "check_estimators_nan_inf": FIT_OPENS,
        "check_fit1d": FIT_OPENS,
        "check_n_features_in_after_fitting": ANY_LENGTH,
        "check_transformer_general": ANY_LENGTH,
    },
    # The check allows differences of 1e-7, and shuffles the rows of one of two fits.
    xfer.SvmRepurposer: {COPIES: "libsvm stops at a tolerance of 0.001"},
    xfer.GpRepurposer: {COPIES: "gradients in single precision depend on the order of rows"},
    xfer.BnnRepurposer: {COPIES: "each row has noise of its own, so copies have more than one"},
}


def in_doubles(model):
    """Features are 32-bit floats, in which a model rounds more than some checks allow."""
    return make_pipeline(FunctionTransformer(np.float64), model)


ESTIMATORS = [
    xfer.LayerFeatures(SOURCE, "same"),
    xfer.MetaModelRepurposer(SOURCE, "same", in_doubles(LogisticRegression())),
    xfer.LrRepurposer(SOURCE, "same"),
    xfer.SvmRepurposer(SOURCE, "same"),
    xfer.GpRepurposer(SOURCE, "same", max_function_evaluations=20),
    xfer.AutoRepurposer(SOURCE, "same"),
    xfer.BnnRepurposer(SOURCE, "same", num_epochs=60, num_samples_mc_prediction=20),
    xfer.MetaModelRegressor(SOURCE, "same", in_doubles(Ridge())),
    xfer.MetaModelRegressor(SOURCE, "same", DecisionTreeRegressor(random_state=0)),
]


def checks():
    for estimator in ESTIMATORS:
        expected = NOT_APPLYING.get(type(estimator), {})
        for case in estimator_checks_generator(
            estimator, expected_failed_checks=expected, mark="xfail"
        ):
            is_slow = isinstance(estimator, xfer.BnnRepurposer)
            marks = getattr(case, "marks", ())
            values = getattr(case, "values", case)
            yield pytest.param(*values, marks=[*marks, *[pytest.mark.slow] * is_slow])


def name_of(value):
    return getattr(getattr(value, "func", value), "__name__", type(value).__name__)


@pytest.mark.parametrize(("estimator", "check"), [*checks()], ids=name_of)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)
