"""What LayerFeatures and repurposers share: their parameters, and one network for all copies."""

import atexit
import hashlib
import os
import pickle
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import wraps
from inspect import Parameter, Signature, isclass, signature
from multiprocessing import parent_process
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from joblib.externals.loky.backend import reduction
from sklearn.base import BaseEstimator, clone

from xfer.sources import SourceModel, open_source

# What copies share with the estimator that they were copied from.
_SHARED = ("source_model", "source_", "cache", "cache_")
_MOST_NETWORKS = 4

_Init = TypeVar("_Init", bound=Callable[..., None])


def stores_parameters(options_of: type | None = None) -> Callable[[_Init], _Init]:
    """Make an ``__init__`` that stores each argument under its name, as scikit-learn asks.

    ``**options`` stand for the keyword-only parameters of another class.
    """

    def decorate(init: _Init) -> _Init:
        own = list(signature(init).parameters.values())
        own = [one for one in own if one.kind is not Parameter.VAR_KEYWORD]
        names = {one.name for one in own}
        others = signature(options_of).parameters.values() if options_of else ()
        keyword_only = [one for one in others if one.kind is Parameter.KEYWORD_ONLY]
        full = Signature([*own, *(one for one in keyword_only if one.name not in names)])

        @wraps(init)
        def store(self: Any, *args: Any, **kwargs: Any) -> None:
            bound = full.bind(self, *args, **kwargs)
            bound.apply_defaults()
            vars(self).update(list(bound.arguments.items())[1:])

        store.__signature__ = full  # type: ignore[attr-defined]
        return store  # type: ignore[return-value]

    return decorate


class SharesNetwork(BaseEstimator):
    """A scikit-learn estimator whose copies share one network instead of copying it.

    A pickle holds the network too. Only joblib's worker processes, which ``n_jobs`` starts, get the
    network in a file of its own: each of them reads it once, however many estimators it is given.
    A source whose network can change while it is open says so by a ``version()`` that changes.
    """

    source_model: Any
    context_function: Any
    num_devices: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include those of a meta-model, as ``meta_model__name``.

        Returns
        -------
        dict of str to object
        """
        # A Module has a get_params of its own, of another kind: the network is not looked into.
        parameters = super().get_params(deep=False)
        for name, value in list(parameters.items()) if deep else ():
            if hasattr(value, "get_params") and not isclass(value) and name not in _SHARED:
                inner = value.get_params().items()
                parameters.update({f"{name}__{key}": item for key, item in inner})
        return parameters

    def __sklearn_clone__(self) -> Any:
        parameters = self.get_params(deep=False)
        copies = {
            name: value if name in _SHARED else clone(value, safe=False)
            for name, value in parameters.items()
        }
        return type(self)(**copies)

    def __copy__(self) -> Any:
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        for value in (self.__dict__.get(name) for name in _SHARED):
            memo[id(value)] = value
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__()}
        if state.get("source_") is not None:
            state["source_"] = _Network(state["source_"])
        # A path goes as it is; and what was loaded without its network has none to send.
        if not isinstance(state["source_model"], (str, os.PathLike, type(None))):
            state["source_model"] = _Network(self._open_source())
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # What the network takes beside matrices. Not texts: to scikit-learn, an estimator that
        # takes arrays of one dimension takes no others.
        tags.input_tags.three_d_array = True
        tags.input_tags.dict = True
        return tags

    def _sk_visual_block_(self) -> Any:
        from xfer._html import visual_block

        return visual_block(self)

    def _open_source(self) -> SourceModel:
        return open_source(
            self.source_model, context_function=self.context_function, num_devices=self.num_devices
        )


class _Network:
    """A source on its way to a file or another process, where it arrives as itself."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __reduce__(self) -> tuple:
        return _itself, (self.source,)


def _itself(source: Any) -> Any:
    return source


class _Post:
    """Networks in files: the way from this process to those that share its work, and back."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._folder: Path | None = None
        self._paths: WeakKeyDictionary = WeakKeyDictionary()
        self._known: WeakValueDictionary = WeakValueDictionary()
        self._held: OrderedDict[str, Any] = OrderedDict()

    def send(self, network: _Network) -> tuple:
        """Reduce a network to the path of its file, for pickle."""
        with self._lock:
            path = self._path(network.source)
        return (_receive, (path,)) if path else network.__reduce__()

    def receive(self, path: str) -> Any:
        """Read a network that another process has sent, unless it is known here."""
        with self._lock:
            source = self._known.get(path, self._held.get(path))
            if source is None:
                with open(path, "rb") as file:
                    source = pickle.load(file)
                self._remember(source, path)
            if parent_process() is not None:
                self._hold(source, path)
        return source

    def _path(self, source: Any) -> str | None:
        version = _version(source)
        try:
            known, path = self._paths.get(source, (None, None))
        except TypeError:  # without a hash or weak references it is known by its content only
            known = path = None
        if path and known == version:
            return path
        if parent_process() is not None:
            return None  # a worker may end, and its files with it, before its answer is read
        path = self._write(source)
        self._remember(source, path)
        return path

    def _remember(self, source: Any, path: str) -> None:
        with suppress(TypeError):
            self._paths[source] = _version(source), path
            self._known[path] = source

    def _hold(self, source: Any, path: str) -> None:
        """Keep a network, which nothing else in a worker holds between two tasks."""
        self._held[path] = source
        self._held.move_to_end(path)
        if len(self._held) > _MOST_NETWORKS:
            self._held.popitem(last=False)

    def _write(self, source: Any) -> str:
        """Write a network under its checksum, so that equal ones are one file."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="xfer-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            reduction.dump(source, file)
        with open(file.name, "rb") as written:
            path = self._folder / hashlib.file_digest(written, "sha256").hexdigest()
        if path.exists():
            os.remove(file.name)  # a worker may be reading what is there
        else:
            os.replace(file.name, path)
        return str(path)


def _version(source: Any) -> Any:
    """Return what changes when a source's network changes; None for one that is frozen."""
    version = getattr(source, "version", None)
    return version() if callable(version) else version


def _receive(path: str) -> Any:
    return _post.receive(path)


_post = _Post()
reduction.register(_Network, _post.send)
