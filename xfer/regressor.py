"""Features of a frozen network and a regressor on top."""

from sklearn.base import RegressorMixin, is_classifier
from sklearn.metrics import r2_score

from xfer.feature_model import FeatureModel, FitsMetaModel
from xfer.targets import checked_numbers

__all__ = ["MetaModelRegressor"]


class MetaModelRegressor(FitsMetaModel, RegressorMixin, FeatureModel):
    """Features of named layers of a frozen network, and a regressor on top.

    What :class:`xfer.MetaModelRepurposer` is for labels, this is for numbers.

    Parameters
    ----------
    source_model : mxnet.mod.Module, or anything :func:`xfer.open_source` takes
        The network. It is never changed.
    feature_layer_names : str or list of str
        The layers to take features from.
    meta_model : scikit-learn regressor or pipeline
        Cloned before it is fitted. One that takes several numbers to an example is given them.
    pooling, cache, context_function, num_devices, progress
        See :class:`xfer.MetaModelRepurposer`.

    Attributes
    ----------
    features_ : LayerFeatures
        Turns data into features.
    meta_model_ : regressor
        Fitted on them.

    Examples
    --------
    >>> import xfer
    >>> images, digits = xfer.example.digits()
    >>> images, digits = images[digits >= 5], digits[digits >= 5]
    >>> source = xfer.load_checkpoint(xfer.example.checkpoint())
    >>> from sklearn.linear_model import RidgeCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> ridge = make_pipeline(StandardScaler(), RidgeCV())
    >>> ink = images.sum(axis=(1, 2, 3))
    >>> regressor = xfer.MetaModelRegressor(source, "relu1", ridge, pooling="mean")
    >>> bool(regressor.fit(images[:50], ink[:50]).score(images[50:], ink[50:]) > 0.9)
    True
    """

    def score(self, X, y=None, sample_weight=None):
        """Tell the share of the variance that the predictions explain.

        Parameters
        ----------
        X : array, dict of str to array, list, or what brings batches
        y : array-like of shape (n,) or (n, k), optional
            True numbers. An iterator carries its own.
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        float
            The coefficient of determination, at most 1; with several numbers to an example their
            average.
        """
        return self._score(r2_score, X, y, sample_weight)

    def _check_meta_model(self, meta_model):
        if is_classifier(meta_model):
            raise ValueError(
                f"{type(meta_model).__name__} is a classifier: xfer.MetaModelRepurposer takes it"
            )
        super()._check_meta_model(meta_model)

    def _checked_targets(self, numbers):
        return checked_numbers(numbers)
