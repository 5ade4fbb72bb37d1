"""Class priors: the classes come in other proportions than among the labels."""

import numpy as np
import pytest
from scipy.special import entr, softmax
from sklearn.base import clone
from sklearn.metrics import log_loss

import xfer
from xfer.meta.bayesian_network import BayesianNetwork
from xfer.meta.gaussian_process import DirichletGaussianProcess
from xfer.meta.logistic_regression import CalibratedLogisticRegression
from xfer.meta.support_vector_machine import CalibratedSvm
from xfer.sources import Layer, SourceModel

HEADS = [
    CalibratedLogisticRegression(),
    CalibratedSvm(),
    DirichletGaussianProcess(),
    BayesianNetwork(num_epochs=60),
]
REPURPOSERS = [xfer.LrRepurposer, xfer.SvmRepurposer, xfer.GpRepurposer, xfer.BnnRepurposer]
PRIOR = {"a": 0.2, "b": 0.5, "c": 0.3}
each_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)


@pytest.fixture(scope="module")
def skewed():
    """60, 15 and 5 labelled examples of three classes, and 300 of each to test on."""
    random = np.random.RandomState(0)
    centres = 0.5 * random.normal(size=(3, 10))
    labels, truth = np.repeat([0, 1, 2], [60, 15, 5]), np.repeat([0, 1, 2], 300)
    X, test = (centres[y] + random.normal(size=(len(y), 10)) for y in (labels, truth))
    names = np.array(["a", "b", "c"])
    return X, names[labels], test, names[truth]


@each_head
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("prior", ["balanced", PRIOR])
def test_probabilities_are_multiplied_by_the_prior_over_the_share(head, skewed, prior, weighted):
    X, y, test, _ = skewed
    plain, weights, shares = clone(head), None, np.array([60, 15, 5]) / 80
    if weighted:
        plain.set_params(class_weight={"a": 0.5})
        weights = np.random.RandomState(0).uniform(size=80)
        shares = [weights[y == label].sum() * (0.5 if label == "a" else 1) for label in "abc"]
        shares /= np.sum(shares)
    model = clone(plain).set_params(class_prior=prior).fit(X, y, weights)
    wanted = np.full(3, 1 / 3) if prior == "balanced" else np.array([0.2, 0.5, 0.3])
    expected = plain.fit(X, y, weights).predict_proba(test) * (wanted / shares)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(test), expected, atol=1e-6)
    np.testing.assert_array_equal(model.predict(test), model.classes_[expected.argmax(axis=1)])
    np.testing.assert_allclose(model.prior_ratio_, wanted / shares)


@each_head
def test_it_is_right_where_the_test_is_not_skewed(head, skewed):
    X, y, test, truth = skewed
    plain = clone(head).fit(X, y)
    model = clone(head).set_params(class_prior="balanced").fit(X, y)
    assert model.score(test, truth) > plain.score(test, truth) + 0.04
    losses = [log_loss(truth, one.predict_proba(test)) for one in (plain, model)]
    assert losses[1] < losses[0] - 0.1


@each_head
def test_the_share_of_the_labels_as_prior_changes_nothing(head, skewed):
    X, y, test, _ = skewed
    expected = clone(head).fit(X, y).predict_proba(test)
    shares = {"a": 60 / 80, "b": 15 / 80, "c": 5 / 80}
    found = clone(head).set_params(class_prior=shares).fit(X, y).predict_proba(test)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    refitted = clone(head).set_params(class_prior="balanced").fit(X, y)
    found = refitted.set_params(class_prior=None).fit(X, y).predict_proba(test)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("head", HEADS[2:], ids=lambda head: type(head).__name__)
def test_uncertainty_is_that_of_the_changed_posterior(head, skewed):
    """By brute force: each sample's probabilities changed, and weighted by the prior's evidence."""
    X, y, test, _ = skewed
    model = clone(head).set_params(class_prior=PRIOR).fit(X, y)
    samples = softmax(model._score_samples(test).astype(float), axis=2) * model.prior_ratio_
    evidence = samples.sum(axis=2)
    entropies = entr(samples / evidence[..., None]).sum(axis=2)
    found = model.predict_uncertainty(test)
    total = entr(model.predict_proba(test)).sum(axis=1)
    np.testing.assert_allclose(found.total, total, atol=1e-12)
    expected = (evidence * entropies).sum(axis=1) / evidence.sum(axis=1)
    np.testing.assert_allclose(found.aleatoric, np.minimum(expected, total), atol=1e-6)
    assert (found.epistemic >= 0).all()
    np.testing.assert_allclose(found.aleatoric + found.epistemic, total, atol=1e-12)
    assert np.abs(expected - entropies.mean(axis=1)).max() > 0.01, "the weights matter"


def test_the_intercept_takes_it_in(skewed):
    X, y, test, _ = skewed
    plain = CalibratedLogisticRegression().fit(X, y)
    model = CalibratedLogisticRegression(class_prior=PRIOR).fit(X, y)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    np.testing.assert_allclose(model.intercept_ - plain.intercept_, np.log(model.prior_ratio_))
    scores = test @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(softmax(scores, axis=1), model.predict_proba(test), atol=1e-12)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("even", "class_prior must be None, 'balanced' or a dict, got 'even'"),
        ([0.5, 0.5], r"class_prior must be None, 'balanced' or a dict, got \[0.5, 0.5\]"),
        ({**PRIOR, "a": 0}, "class_prior of 'a' must be a positive number, got 0"),
        ({**PRIOR, "a": np.nan}, "class_prior of 'a' must be a positive number, got nan"),
        ({**PRIOR, "a": 2}, "class_prior must sum to 1, got 2.8: divide each by it"),
        ({"a": 0.5, "b": 0.5}, "class_prior has no 'c', but the labels are 'a', 'b', 'c'"),
        ({**PRIOR, "c": 0.2, "d": 0.1}, "class_prior has 'd', but the labels are 'a', 'b', 'c'"),
    ],
)
@each_head
def test_priors_that_mean_nothing_are_refused(head, skewed, prior, message):
    X, y, _, _ = skewed
    model = clone(head).set_params(class_prior=prior)
    with pytest.raises(ValueError, match=message):
        model.check_parameters().check_weights(y, None)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert not hasattr(model, "classes_")


def test_it_needs_probabilities(skewed):
    X, y, _, _ = skewed
    with pytest.raises(ValueError, match="class_prior needs probability=True"):
        CalibratedSvm(probability=False, class_prior="balanced").fit(X, y)


def test_a_class_of_weight_zero_has_no_prior(skewed):
    X, y, test, _ = skewed
    model = CalibratedLogisticRegression(class_weight={"c": 0}, class_prior={"a": 0.5, "b": 0.5})
    assert model.fit(X, y).predict_proba(test).shape == (900, 2)
    with pytest.raises(ValueError, match="class_prior has 'c', but the labels are 'a', 'b'"):
        model.set_params(class_prior=PRIOR).fit(X, y)


class Identity(SourceModel):
    """Not a network: matrices as they are."""

    layers = [Layer("same", "identity", (10,), 0)]
    input_names = ["data"]

    def _forward(self, inputs, layers):
        return [inputs["data"]]


@pytest.mark.parametrize(("kind", "head"), list(zip(REPURPOSERS, HEADS)))
def test_a_repurposer_passes_it_on(kind, head, skewed, tmp_path):
    X, y, test, _ = skewed
    X, test = X.astype(np.float32), test.astype(np.float32)
    options = {"num_epochs": 60} if kind is xfer.BnnRepurposer else {}
    repurposer = kind(Identity(), "same", class_prior=PRIOR, **options).fit(X, y)
    found = repurposer.predict_proba(test)
    expected = clone(head).set_params(class_prior=PRIOR).fit(X, y)
    np.testing.assert_array_equal(found, expected.predict_proba(test))
    repurposer.save_repurposer("prior", tmp_path, save_source_model=False)
    with pytest.warns(UserWarning, match="no fingerprint"):
        loaded = xfer.load("prior", tmp_path, source_model=Identity())
    assert loaded.class_prior == PRIOR
    np.testing.assert_array_equal(loaded.predict_proba(test), found)


def test_priors_are_refused_before_features_are_computed(skewed):
    X, y, _, _ = skewed
    source = Identity()
    source.extract = None
    with pytest.raises(ValueError, match="class_prior has no 'c'"):
        xfer.LrRepurposer(source, "same", class_prior={"a": 0.5, "b": 0.5}).fit(X, y)
