"""The default regressor: the pipeline it stands for, and few labels."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import xfer
from xfer.meta import PartialWhitening, WhitenedRidge

COPIES = "check_sample_weight_equivalence_on_dense_data"
EXPECTED = {COPIES: "a copy of an example that is left out is not left out, as in RidgeCV"}
CHECKS = estimator_checks_generator(WhitenedRidge(), expected_failed_checks=EXPECTED, mark="xfail")


@pytest.mark.parametrize(("estimator", "check"), [*CHECKS])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("shift", [0, -5])
def test_it_is_a_ridge_on_whitened_features(several, shift):
    X, y = load_diabetes(return_X_y=True)
    X, y = X + 0.2 + shift, np.column_stack([y, X[:, 0]]) if several else y
    model = WhitenedRidge().fit(X[:80], y[:80])
    ridge = RidgeCV(np.logspace(-1, 4, 11), alpha_per_target=several)
    pipeline = make_pipeline(PartialWhitening(), ridge).fit(X[:80], y[:80])
    np.testing.assert_allclose(model.predict(X), pipeline.predict(X), rtol=1e-7)
    np.testing.assert_array_equal(model.alpha_, ridge.alpha_)


def test_twenty_labels_are_not_worse_than_a_constant():
    images, _ = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    X = source.extract(images, "relu2").matrix.reshape(len(images), -1)
    y = images.max(axis=2).sum(axis=(1, 2))  # columns with ink
    scores = {"whitened": [], "unit variance": []}
    for seed in range(5):
        rows = np.random.RandomState(seed).permutation(len(X))
        few, others = rows[:20], rows[20:]
        for name, model in (
            ("whitened", WhitenedRidge()),
            ("unit variance", make_pipeline(StandardScaler(), RidgeCV())),
        ):
            scores[name].append(model.fit(X[few], y[few]).score(X[others], y[others]))
    assert np.mean(scores["unit variance"]) < -1
    assert np.mean(scores["whitened"]) > np.mean(scores["unit variance"]) + 1
