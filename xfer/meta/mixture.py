"""A mixture of classifiers on several feature matrices, weighted by left-out predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from xfer._checks import check_integer, check_positive
from xfer._html import Rows
from xfer.meta.base import (
    ClassPrior,
    ClassWeight,
    MetaClassifier,
    distinct_rows,
    example_counts,
    small_fit_threads,
)
from xfer.meta.conformal import calibrate, sets, suspicious
from xfer.meta.graph import GraphSpreading, pack, unpack
from xfer.meta.heads import LANDMARKS, FeatureHeads, can_tell, chosen_rows, has_company
from xfer.meta.next_to_label import next_to_label
from xfer.meta.novelty import Novelty, TellsNovelty
from xfer.meta.posterior import mean_and_error
from xfer.meta.whitening import column_means, signed_root, takes_root, unit_rows

if TYPE_CHECKING:
    from xfer.meta.base import Matrix

Blocks: TypeAlias = dict[str, Any]
Head: TypeAlias = tuple[str, str]

_RIDGE = 3.0  # how strongly the weights are drawn to their prior
_TOTAL = 1.3  # sum of the prior weights: the classifiers do not all make the same mistakes
_FLOOR = -30.0  # of log probabilities: no classifier alone rules a class out
_GRAPHS = 0.6  # of the prior weight, where there are many more unlabelled examples than labelled
_FOLDS = 5
_FLOATS_PER_BATCH = 20_000_000
_LEAST = 0.05  # of the largest share; what has less changes little and costs as much
_WIDEST = 5000  # wider matrices are left out of the joined space
_ALL, _ONLY = "all layers", "features"


class Score(NamedTuple):
    """Estimated accuracy and log loss on new examples, from left-out predictions.

    With two labels per class it is pessimistic: a left-out prediction then has half the labels.
    Examples that are the only ones of their class do not count.

    Attributes
    ----------
    accuracy, log_loss : float
        The accuracy, from 0 to 1, and the log loss in nats.
    accuracy_error, log_loss_error : float
        Their standard errors.
    n_examples : int
        Number of distinct left-out examples.
    """

    accuracy: float
    log_loss: float
    accuracy_error: float
    log_loss_error: float
    n_examples: int


class SuspiciousLabel(NamedTuple):
    """A labelled example whose label may be wrong.

    Attributes
    ----------
    row : int
        Index of the example in the data of the fit.
    label, probability : object, float
        Its label, and the left-out probability of that label.
    likeliest, likeliest_probability : object, float
        The likeliest label, and its left-out probability.
    """

    row: int
    label: Any
    probability: float
    likeliest: Any
    likeliest_probability: float


class HeadReport(NamedTuple):
    """One classifier of a mixture: its layer, its kind, and its weight.

    Attributes
    ----------
    layer, classifier : str
        Name of the layer, and kind of the classifier.
    weight : float
        Its weight in the mixture.
    accuracy, log_loss : float
        Those of this classifier alone on left-out examples; the log loss is in nats.
    """

    layer: str
    classifier: str
    weight: float
    accuracy: float
    log_loss: float


class Explanation(Rows[HeadReport]):
    """Classifiers of a mixture, the largest weight first: a list of ``HeadReport``.

    ``print`` shows it as a table, ``pandas.DataFrame(explanation)`` makes a data frame of it, and
    :func:`xfer.plots.explanation` draws it.
    """

    _title = "classifiers by weight"


class MixtureClassifier(TellsNovelty, MetaClassifier):
    r"""A mixture of classifiers in closed form, for one or several feature matrices.

    Each dense matrix gets three: ridge regression with a Gaussian kernel, linear ridge regression
    on centred unit vectors, and Gaussians with one shrunk covariance. With unlabelled examples,
    label spreading on graphs of neighbours joins them. Every classifier predicts each labelled
    example without having seen its label. The weights :math:`a_h \ge 0` of the mixture
    :math:`p(y) \propto \prod_h p_h(y)^{a_h}`, a logarithmic opinion pool [1]_, have the least log
    loss on these predictions [2]_, with a prior that gives each matrix its share, and are the prior
    with ten labelled examples or fewer. With n labelled
    examples, :math:`1 / (n + 2)` of the probability is spread evenly over the classes: even if all
    left-out predictions are right, the next one may be wrong.

    Parameters
    ----------
    shares : dict of str to float, optional
        Prior weights of all matrices, by name; only ratios matter. By default they are equal.
    class_weight : "balanced" or dict, optional
        The weight of each class's examples; "balanced" gives all classes the same total weight.
    class_prior : "balanced" or dict, optional
        The shares of the classes among new examples, if they differ from those in training.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    head_names_ : list of (str, str)
        The classifiers: the name of the matrix, and the kind of classifier.
    weights_ : ndarray of shape (n_heads,)
        The weight of each of them.
    doubt_ : float
        The share of the probability that is spread evenly.
    left_out_ : ndarray of shape (n, n_classes)
        Probabilities of each labelled example by models that have not seen its label. Rows are NaN
        where an example is the only one of its class, or has weight 0.
    score_estimate_ : Score
        Estimated accuracy and log loss on new examples. It holds if the labelled examples are a
        random sample of those to come, and is NaN if every class has one example.
    head_scores_ : list of Score
        The same for each classifier alone.

    References
    ----------
    .. [1] Genest and Zidek (1986), Combining Probability Distributions, section 3.
    .. [2] Wolpert (1992), Stacked Generalization.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MixtureClassifier().fit(X[::3], y[::3], unlabelled=X)
    >>> model.predict_proba(X[[142]]).round(1)
    array([[0. , 0. , 0.9]])
    >>> round(model.score_estimate_.accuracy, 2)
    1.0
    """

    doubt_ = 0.0  # of files written before there was any

    def __init__(
        self,
        shares: Mapping[str, float] | None = None,
        *,
        class_weight: ClassWeight = None,
        class_prior: ClassPrior = None,
    ) -> None:
        self.shares = shares
        self.class_weight = class_weight
        self.class_prior = class_prior

    def check_parameters(self) -> Self:
        """Raise ValueError, naming the parameter, if one is out of range; return self."""
        for name, share in (self.shares or {}).items():
            check_positive(f"the share of {name!r}", share)
        return super().check_parameters()

    def fit(
        self,
        X: Matrix | Mapping[str, Matrix],
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        unlabelled: Matrix | Mapping[str, Matrix] | None = None,
    ) -> Self:
        """Fit to features of shape (n, d), or a dict of such matrices by name, and labels.

        ``unlabelled`` are features of m examples without labels, of the same form. A sparse matrix,
        such as word counts, has a linear classifier and naive Bayes. ``sample_weight``, (n,), says
        how many copies an example counts as; 0 drops it. A parameter or a weight out of range,
        features that are not finite and labels of one class raise ValueError.
        """
        # Whatever is refused leaves this object as it was, and nothing of an earlier fit remains.
        fresh = type(self)(**self.get_params(deep=False))
        fresh._fit_checked(X, y, sample_weight, unlabelled)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        for name, value in vars(fresh).items():
            setattr(self, name, value)
        return self

    def _fit_checked(self, X: Any, y: Any, sample_weight: Any, unlabelled: Any) -> None:
        self.check_parameters()
        counts = example_counts(sample_weight, y)
        blocks, labels = self._check_blocks(X, y, is_fit=True)
        if isinstance(unlabelled, list) and not unlabelled:
            unlabelled = None
        pool = None if unlabelled is None else self._check_blocks(unlabelled, least=0)[0]
        indices, weights = self._learn_classes(labels, counts)
        kept = weights > 0
        given = {name: block[kept] for name, block in blocks.items()}
        with small_fit_threads(len(labels), sum(block.shape[1] for block in given.values())):
            left_out = self._fit(given, indices[kept], weights[kept], pool)
            self.joined_ = self.space_.transform(given).astype(np.float32)
            self._fit_novelty(given, indices[kept], weights[kept], slice(None), left_out)
        self.left_out_ = np.full((len(kept), len(self.classes_)), np.nan)
        self.left_out_[kept] = left_out
        self.labels_, self.label_weights_ = indices, weights

    def explain(self) -> Explanation:
        """Return the weight and the left-out scores of each classifier."""
        check_is_fitted(self)
        heads = zip(self.head_names_, self.weights_.tolist(), self.head_scores_)
        rows = [HeadReport(*name, weight, *score[:2]) for name, weight, score in heads]
        return Explanation(sorted(rows, key=lambda row: -row.weight))

    def predict_set(self, X: Matrix | Mapping[str, Matrix], coverage: float = 0.9) -> np.ndarray:
        """Return which labels are in the set of each row: bool, of shape (m, n_classes).

        Sets hold the right label of a new example with probability ``coverage``, estimated from
        left-out predictions: see ``xfer.meta.conformal.sets``. A set may be empty, where no label
        is likely enough, and holds all labels if there are too few examples to promise the
        coverage.
        """
        scores = calibrate(self._left_out_probabilities(), self.labels_)
        return sets(self.predict_proba(X), scores, coverage, self.label_weights_)

    def suspicious_labels(self) -> list[SuspiciousLabel]:
        """Return the labelled examples whose label is unlikely when left out, the worst first.

        Listed are those whose label has less than a twentieth of the likeliest label's probability:
        see ``xfer.meta.conformal.suspicious``.
        """
        left_out = self._left_out_probabilities()
        order, flagged = suspicious(left_out, self.labels_)
        classes = self.classes_.tolist()
        return [
            SuspiciousLabel(int(row), classes[own], float(p[own]), classes[best], float(p[best]))
            for row in order
            if flagged[row]
            for own, p, best in [(self.labels_[row], left_out[row], left_out[row].argmax())]
        ]

    def next_to_label(
        self, pool: Matrix | Mapping[str, Matrix], n: int, random_state: int = 0
    ) -> np.ndarray:
        """Return indices of ``n`` examples of a pool to label next, the most useful first.

        See ``xfer.meta.next_to_label.next_to_label``. Copies and labelled examples are never
        chosen, so there may be fewer than ``n``.
        """
        check_integer("n", n)
        probabilities = self.predict_proba(pool)
        rows = self._compute(self.space_.transform, pool).astype(np.float32)
        return next_to_label(self.joined_, rows, n, probabilities, random_state)

    def _left_out_probabilities(self) -> np.ndarray:
        check_is_fitted(self)
        return self.left_out_

    def novelty(self, X: Matrix | Mapping[str, Matrix]) -> np.ndarray:
        """Return how unlike the examples of every class each row is: log D + H / log K.

        With several matrices, D is the geometric mean of the distances in each, weighted by shares:
        see :class:`xfer.meta.novelty.Novelty`. H is the entropy of the predicted probabilities of K
        classes. Of shape (m,).
        """
        return super().novelty(X)

    def _new_novelty(self, X: Blocks, y: np.ndarray, w: np.ndarray) -> dict[str, Novelty]:
        return {name: Novelty().fit(part, y, w) for name, part in self.space_.parts(X).items()}

    def _left_out_distances(self) -> np.ndarray:
        return self._mean({name: one.left_out_distances_ for name, one in self._novelty.items()})

    def _distance(self, X: Blocks) -> np.ndarray:
        parts = self.space_.parts(X)
        return self._mean({name: one.distance(parts[name]) for name, one in self._novelty.items()})

    def _mean(self, distances: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the geometric mean of distances, with the matrices' shares as weights."""
        shares = np.array([self.space_.shares[name] for name in distances])
        logarithms = np.log(np.maximum([*distances.values()], np.finfo(float).tiny))
        return np.exp(shares @ logarithms / shares.sum())

    def _fit(
        self, X: Blocks, y: np.ndarray, w: np.ndarray, pool: Blocks | None = None
    ) -> np.ndarray:
        """Fit to checked data; return left-out probabilities, of shape (n, n_classes)."""
        rows, copies = _distinct(X, y)
        blocks = {name: block[rows] for name, block in X.items()}
        shares = self._shares(blocks)
        y, w, n_classes = y[rows], np.bincount(copies, w), len(self.classes_)
        # All left-out predictions may be right, and the next one wrong: the rule of succession.
        self.doubt_ = 1 / (np.count_nonzero(w) + 2)
        found: dict[Head, np.ndarray] = {}
        prior: dict[Head, float] = {}
        self.heads_ = {name: FeatureHeads() for name in blocks}
        for name, heads in self.heads_.items():
            of_block = heads.fit_left_out(blocks[name], y, w, n_classes)
            found.update({(name, kind): log_p for kind, log_p in of_block.items()})
            prior.update({(name, kind): shares[name] / len(of_block) for kind in of_block})
        self.space_ = JoinedSpace(shares).fit(blocks, w)
        self.graphs_: dict[str, GraphSpreading] = {}
        if pool is not None and (m := _length(pool)):
            of_graphs = _GRAPHS * m / (m + len(y))
            prior = {head: share * (1 - of_graphs) for head, share in prior.items()}
            for name, share in self._graph_shares(shares, blocks).items():
                graph = GraphSpreading("whitened" if name == _ALL else "unit")
                nodes, rest = self._nodes(name, blocks), self._nodes(name, pool)
                found[name, "graph"] = graph.fit_left_out(nodes, y, w, n_classes, rest)
                prior[name, "graph"], self.graphs_[name] = of_graphs * share, graph
        log_p = np.array([part.astype(np.float32) for part in found.values()])
        shares_of_heads = np.array([*prior.values()])
        left_out = np.empty(log_p.shape[1:])
        fold = np.random.RandomState(0).permutation(len(y)) % _FOLDS
        for index in range(_FOLDS):
            # An example must not have a say in the weights that predict it.
            rows = fold == index
            self.weights_ = pool_weights(log_p, y, w * ~rows, shares_of_heads)
            left_out[rows] = self._mixed(log_p[:, rows])
        self.weights_ = pool_weights(log_p, y, w, shares_of_heads)
        self.head_names_ = list(found)
        alone = ~has_company(y)
        left_out[alone] = log_p[:, alone] = np.nan
        self.score_estimate_ = self._score(left_out, y, w)
        self.head_scores_ = [self._score(np.exp(part, dtype=np.float64), y, w) for part in log_p]
        return left_out[copies]

    def _graph_shares(self, shares: Mapping[str, float], blocks: Blocks) -> dict[str, float]:
        """Return the graphs to make and their shares.

        One joins all dense matrices; the most important one has one of its own, and so has each
        sparse matrix.
        """
        sparse = {name: shares[name] for name, block in blocks.items() if issparse(block)}
        graphs = dict(sparse)
        if dense := [name for name in blocks if name not in sparse]:
            rest = (1 - sum(sparse.values())) / 2
            graphs[max(dense, key=lambda name: shares[name])] = graphs[_ALL] = rest
        return graphs

    def _nodes(self, name: str, blocks: Blocks) -> Any:
        return self.space_.transform(blocks) if name == _ALL else blocks[name]

    def _mixed(self, log_p: np.ndarray) -> np.ndarray:
        """Return the probabilities of the mixture for log probabilities (n_heads, m, n_classes)."""
        weights = self.weights_.astype(log_p.dtype)
        scores = np.tensordot(weights, np.maximum(log_p, _FLOOR), 1).astype(np.float64)
        p = (1 - self.doubt_) * softmax(scores, axis=1) + self.doubt_ / scores.shape[1]
        p *= self.prior_ratio_
        return p / p.sum(axis=1, keepdims=True)

    def _probabilities(self, X: Any) -> np.ndarray:
        p, size = (
            np.empty((_length(X), len(self.classes_))),
            len(self.head_names_) * len(self.classes_),
        )
        for rows in gen_batches(len(p), max(1, _FLOATS_PER_BATCH // (size + LANDMARKS))):
            p[rows] = self._batch_probabilities({name: block[rows] for name, block in X.items()})
        return p

    def _batch_probabilities(self, X: Blocks) -> np.ndarray:
        found = [part for name, heads in self.heads_.items() for part in heads.log_proba(X[name])]
        found += [graph.log_proba(self._nodes(of, X)) for of, graph in self.graphs_.items()]
        return self._mixed(np.array(found))

    def _score(self, left_out: np.ndarray, y: np.ndarray, w: np.ndarray) -> Score:
        known = np.flatnonzero(np.isfinite(left_out).all(axis=1))
        if not len(known):
            return Score(np.nan, np.nan, np.nan, np.nan, 0)
        p, y = left_out[known], y[known]
        w = w[known] * self.prior_ratio_[y]
        losses = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12))
        values = np.stack([p.argmax(axis=1) == y, losses])
        means, errors = mean_and_error(values, w)
        # Even if all are right, or all are wrong, the next one may not be (Agresti and Coull 1998).
        n = w.sum() ** 2 / (w @ w)
        share = (n * means[0] + 2) / (n + 4)
        errors[0] = np.sqrt(share * (1 - share) / (n + 4))
        (accuracy, loss), (of_accuracy, of_loss) = means.tolist(), errors.tolist()
        return Score(accuracy, loss, of_accuracy, of_loss, len(known))

    def _check_blocks(
        self, X: Any, y: Any = None, is_fit: bool = False, least: int = 1
    ) -> tuple[Blocks, Any]:
        """Return checked matrices by name, and in a fit also labels."""
        options: dict[str, Any] = {"accept_sparse": "csr", "dtype": np.float64}
        options["ensure_min_samples"] = least
        if isinstance(X, Mapping) and not issparse(X):  # one kind of sparse matrix is a dict
            blocks = {name: check_array(X[name], **options) for name in X}
            y = column_or_1d(y) if is_fit else None
        elif is_fit:
            matrix, y = validate_data(self, X, y, **options)
            blocks = {_ONLY: matrix}
        else:
            blocks = {_ONLY: validate_data(self, X, reset=False, **options)}
        widths = {name: block.shape[1] for name, block in blocks.items()}
        if not blocks:
            raise ValueError("X is an empty dict: it must hold a matrix or more")
        if is_fit:
            self.widths_ = widths
        else:
            self._check_like_fitted(widths)
        lengths = {len(y)} if is_fit else set()
        lengths.update(block.shape[0] for block in blocks.values())
        if len(lengths) != 1:
            what = "the matrices and y" if is_fit else "the matrices"
            raise ValueError(f"{what} must have the same number of rows, got {sorted(lengths)}")
        return blocks, y

    def _check_like_fitted(self, widths: dict[str, int]) -> None:
        if widths.keys() != self.widths_.keys():
            raise ValueError(
                f"X has the matrices {[*widths]}, but those of the fit are {[*self.widths_]}"
            )
        for name, width in widths.items():
            if width != self.widths_[name]:
                raise ValueError(
                    f"X has {width} features, but {type(self).__name__} is expecting "
                    f"{self.widths_[name]} features as input in the matrix {name!r}"
                )

    def _shares(self, blocks: Blocks) -> dict[str, float]:
        """Return prior shares that sum to 1."""
        given = dict.fromkeys(blocks, 1.0) if self.shares is None else dict(self.shares)
        if given.keys() != blocks.keys():
            raise ValueError(f"shares names {sorted(given)}, but the matrices are {sorted(blocks)}")
        total = sum(given.values())
        return {name: given[name] / total for name in blocks}

    def _compute(self, function: Callable[..., Any], X: Any, **options: Any) -> Any:
        check_is_fitted(self)
        blocks, _ = self._check_blocks(X)
        with small_fit_threads(_length(blocks), sum(self.widths_.values())):
            return function(blocks, **options)


class JoinedSpace(BaseEstimator):
    """Joins matrices: centred unit vectors, scaled by the square roots of the shares.

    Square roots of features that are not negative are taken first. Sparse and very wide matrices
    are left out, and those with a very small share; if there are no others, cosines with the
    labelled examples are used instead.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares = shares

    def fit(self, blocks: Blocks, w: np.ndarray) -> Self:
        """Fit to dense or sparse matrices by name, and weights of examples (n,)."""
        least = _LEAST * max(self.shares[name] for name in blocks)
        kept = [name for name in blocks if self.shares[name] >= least]
        narrow = [name for name in kept if blocks[name].shape[1] <= _WIDEST]
        names = [name for name in narrow if not issparse(blocks[name])]
        self.rows_ = (
            {} if names else {name: pack(unit_rows(block)) for name, block in blocks.items()}
        )
        self.roots_ = {name: takes_root(blocks[name]) for name in names}
        self.means_ = {name: column_means(self._root(name, blocks[name]), w) for name in names}
        return self

    def transform(self, blocks: Blocks) -> np.ndarray:
        """Return a matrix with a row for each example."""
        parts = self.parts(blocks)
        return np.concatenate(
            [np.sqrt(self.shares[n]) * unit_rows(parts[n] - self.means_.get(n, 0)) for n in parts],
            axis=1,
        )

    def parts(self, blocks: Blocks) -> dict[str, np.ndarray]:
        """Return the matrices that are joined, before they are centred."""
        if self.means_:
            return {name: self._root(name, blocks[name]) for name in self.means_}
        cosines = {n: unit_rows(blocks[n]) @ unpack(rows).T for n, rows in self.rows_.items()}
        return {name: c.toarray() if issparse(c) else c for name, c in cosines.items()}

    def _root(self, name: str, block: np.ndarray) -> np.ndarray:
        return signed_root(block) if self.roots_[name] else block


def pool_weights(
    left_out: np.ndarray, y: np.ndarray, w: np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Return the weight of each head, >= 0, such that the mixture fits left-out predictions.

    ``left_out`` are log probabilities of shape (n_heads, n, n_classes). The loss is the log loss of
    softmax(sum of weight * log probabilities), and a ridge that draws the weights to the ``prior``,
    shares that sum to 1, and holds small shares more tightly.
    """
    prior = _TOTAL * prior
    rows = chosen_rows(len(y), left_out.shape[2])
    rows = rows[(can_tell(y) & (w > 0))[rows]]
    if not len(rows):
        return prior
    given = np.maximum(left_out[:, rows], _FLOOR).astype(np.float64)
    w, labels = w[rows], (np.arange(len(rows)), y[rows])
    of_labels = given[:, *labels] @ w

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_p = log_softmax(np.tensordot(weights, given, 1), axis=1)
        pull = _RIDGE * (weights - prior) / prior
        loss = (weights - prior) @ pull / 2 - w @ log_p[labels]
        p = np.exp(log_p) * w[:, None]
        return loss, np.tensordot(given, p, 2) - of_labels + pull

    bounds = [(0, None)] * len(prior)
    return minimize(loss_and_gradient, prior, jac=True, method="L-BFGS-B", bounds=bounds).x


def _length(blocks: Blocks) -> int:
    return next(iter(blocks.values())).shape[0]


def _distinct(blocks: Blocks, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of distinct examples, and for every example which of them it is.

    Otherwise a copy of a left-out example would stay in training.
    """
    copies = np.unique(y, return_inverse=True)[1]
    for block in blocks.values():
        copies = np.unique([copies, distinct_rows(block)[1]], axis=1, return_inverse=True)[1]
        copies = copies.ravel()
    return np.unique(copies, return_index=True)[1], copies
