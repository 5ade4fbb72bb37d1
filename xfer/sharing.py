"""One network for all copies of an estimator: clones, and processes that share the work."""

import atexit
import hashlib
import os
import pickle
import shutil
import tempfile
from collections import OrderedDict
from contextlib import suppress
from copy import deepcopy
from inspect import isclass
from multiprocessing import parent_process
from pathlib import Path
from threading import RLock
from weakref import WeakKeyDictionary, WeakValueDictionary

from joblib.externals.loky.backend import reduction
from sklearn.base import BaseEstimator, clone

from xfer.sources import open_source

# What copies have in common with the estimator that they are copies of.
_SHARED = ("source_model", "source_", "cache", "cache_")
_MOST_NETWORKS = 4


class SharesSource(BaseEstimator):
    """A scikit-learn estimator whose copies share one network instead of copying it.

    A pickle of one is complete, with the network as a source. Only joblib's worker processes, which
    ``n_jobs`` starts, get the network by a file of its own: each of them reads it once, however
    many estimators it is given. A source whose network can change while it is open tells by a
    ``version()`` that changes with it; without one it is taken to be frozen.
    """

    def get_params(self, deep=True):
        """Get the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether those of a meta-model come too, as ``meta_model__name``.

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

    def __sklearn_clone__(self):
        parameters = self.get_params(deep=False)
        copies = {
            name: value if name in _SHARED else clone(value, safe=False)
            for name, value in parameters.items()
        }
        return type(self)(**copies)

    def __copy__(self):
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo):
        for value in (self.__dict__.get(name) for name in _SHARED):
            memo[id(value)] = value
        copy = memo[id(self)] = type(self).__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def __getstate__(self):
        state = {**super().__getstate__()}
        if state.get("source_") is not None:
            state["source_"] = _Network(state["source_"])
        # A path goes as it is; and what was loaded without its network has none to send.
        if not isinstance(state["source_model"], (str, os.PathLike, type(None))):
            state["source_model"] = _Network(self._opened())
        return state

    def _sk_visual_block_(self):
        from xfer._html import visual_block

        return visual_block(self)

    def _opened(self):
        return open_source(
            self.source_model, context_function=self.context_function, num_devices=self.num_devices
        )


class _Network:
    """A source on its way to a file or another process, where it arrives as itself."""

    def __init__(self, source):
        self.source = source

    def __reduce__(self):
        return _itself, (self.source,)


def _itself(source):
    return source


class _Post:
    """Networks in files: the way from this process to those that share its work, and back."""

    def __init__(self):
        self._lock = RLock()
        self._folder = None
        self._paths = WeakKeyDictionary()
        self._known = WeakValueDictionary()
        self._held = OrderedDict()

    def send(self, network):
        """Reduce a network to the path of its file, for pickle."""
        with self._lock:
            path = self._path(network.source)
        return (_receive, (path,)) if path else network.__reduce__()

    def receive(self, path):
        """Read a network that another process has sent, but one's own or a known one."""
        with self._lock:
            source = self._known.get(path, self._held.get(path))
            if source is None:
                with open(path, "rb") as file:
                    source = pickle.load(file)
                self._remember(source, path)
            if parent_process() is not None:
                self._hold(source, path)
        return source

    def _path(self, source):
        version = _version(source)
        try:
            known, path = self._paths.get(source, (None, None))
        except TypeError:  # what has no hash or no weak references is known by its content only
            known = path = None
        if path and known == version:
            return path
        if parent_process() is not None:
            return None  # a worker may end, and its files with it, before its answer is read
        path = self._write(source)
        self._remember(source, path)
        return path

    def _remember(self, source, path):
        with suppress(TypeError):
            self._paths[source] = _version(source), path
            self._known[path] = source

    def _hold(self, source, path):
        """Keep a network, which a worker has no other hold on between two tasks."""
        self._held[path] = source
        self._held.move_to_end(path)
        if len(self._held) > _MOST_NETWORKS:
            self._held.popitem(last=False)

    def _write(self, source):
        """Write a network under its checksum, so that equal ones are one file."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="xfer-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            digesting = _Digesting(file)
            reduction.dump(source, digesting)
        path = self._folder / digesting.digest.hexdigest()
        if path.exists():
            os.remove(file.name)  # a worker may be reading what is there
        else:
            os.replace(file.name, path)
        return str(path)


class _Digesting:
    def __init__(self, file):
        self.file = file
        self.digest = hashlib.blake2b(digest_size=20)

    def write(self, block):
        self.digest.update(block)
        return self.file.write(block)


def _version(source):
    """Tell whether a source is what it was; one whose network can change has a ``version``."""
    version = getattr(source, "version", None)
    return version() if callable(version) else version


def _receive(path):
    return _post.receive(path)


_post = _Post()
reduction.register(_Network, _post.send)
