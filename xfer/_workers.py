"""Networks for joblib's worker processes: each reads a network once, however many tasks it gets."""

import atexit
import hashlib
import os
import pickle
import shutil
import tempfile
from collections import OrderedDict
from contextlib import suppress
from multiprocessing import parent_process
from operator import itemgetter
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from joblib.externals.loky.backend import reduction

_MOST_NETWORKS = 4


class PickledNetwork:
    """A source inside a pickle, from which it is loaded as itself."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __reduce__(self) -> tuple:
        return itemgetter(0), ((self.source,),)


class _NetworkFiles:
    """Networks in temporary files, by which this process and its workers exchange them."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._folder: Path | None = None
        self._paths: WeakKeyDictionary = WeakKeyDictionary()
        self._known: WeakValueDictionary = WeakValueDictionary()
        self._held: OrderedDict[str, Any] = OrderedDict()

    def send(self, network: PickledNetwork) -> tuple:
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
                # Nothing else in a worker holds a network between two tasks.
                self._held[path] = source
                self._held.move_to_end(path)
                if len(self._held) > _MOST_NETWORKS:
                    self._held.popitem(last=False)
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
    return _files.receive(path)


_files = _NetworkFiles()
reduction.register(PickledNetwork, _files.send)
