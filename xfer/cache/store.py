"""A folder of features, no larger than it may be."""

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from numbers import Integral
from pathlib import Path

import numpy as np

from xfer._files import written_whole
from xfer.cache.digests import example_digests
from xfer.cache.entry import Entry
from xfer.cache.segments import is_being_written

_MARKER = "xfer-feature-cache.json"
_FORMAT = 1
# A larger matrix is put on disk, where the system can move what is not in use.
_IN_MEMORY = 2**30


class FeatureCache:
    """Features kept on disk, by example.

    Features are found by what decides them: the network and the layer on one side, the content of
    an example on the other. So whatever data come, in whatever order and from whatever kind of
    iterator, each example passes through the network once. Several processes may share a cache.

    Nothing in it can run code. What is damaged counts as missing, and is computed anew.

    Parameters
    ----------
    path : str or path-like
        The folder. It is made when there is something to keep; one that is there must be a cache
        already, or empty.
    max_bytes : int, default=10 GiB
        The most it may hold. When there would be more, the least recently used entries go.

    Raises
    ------
    ValueError
        If the folder holds something else, or ``max_bytes`` is not a positive number of bytes.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> cache = FeatureCache(tempfile.mkdtemp())
    >>> texts = ["a ship", "a plane"]
    >>> with cache.entry({"network": "f3a9", "layer": "pooled"}) as entry:
    ...     entry.append(cache.digests(texts), np.array([[1, 2], [3, 4]], np.float32))
    >>> matrix = np.zeros((3, 2), np.float32)
    >>> entry.read(cache.digests(["a plane", "a train", "a ship"]), matrix)
    array([ True, False,  True])
    >>> matrix
    array([[3., 4.],
           [0., 0.],
           [1., 2.]], dtype=float32)
    """

    def __init__(self, path, *, max_bytes=10 * 2**30):
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, Integral) or max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, got {max_bytes!r}")
        self.path = Path(path).expanduser().absolute()
        self.max_bytes = int(max_bytes)
        self._check_folder()

    def entry(self, key):
        """Open the features of one kind.

        Parameters
        ----------
        key : dict
            All that decides the features beside the example, as JSON can hold it: such as the
            network's digest, the layer, the pooling, the shape of an input.

        Returns
        -------
        Entry
            To be closed after writing, or used in a ``with`` statement.

        Raises
        ------
        TypeError
            If JSON cannot hold the key.
        """
        if not isinstance(key, dict):
            raise TypeError(f"key must be a dict, got {type(key).__name__}")
        text = json.dumps(key, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return Entry(self, self.path / name, text)

    def digests(self, examples):
        """Name examples by their content; see :func:`xfer.cache.example_digests`."""
        return example_digests(examples)

    def allocate(self, shape):
        """Make an array to fill: in memory, or a large one in a file that vanishes with it.

        Parameters
        ----------
        shape : tuple of int

        Returns
        -------
        ndarray of the given shape, float32
            Its content is arbitrary.

        Raises
        ------
        OSError
            If the disk has no room for it.
        """
        size = 4 * math.prod(shape)
        if size < _IN_MEMORY:
            return np.empty(shape, np.float32)
        try:
            self.prepare()
            with tempfile.TemporaryFile(dir=self.path) as file:
                if hasattr(os, "posix_fallocate"):
                    # A disk that fills up later would kill the process that writes to the map.
                    os.posix_fallocate(file.fileno(), 0, size)
                return np.memmap(file, np.float32, "w+", shape=tuple(shape)).view(np.ndarray)
        except OSError as error:
            raise self.unwritable(error) from error

    @property
    def nbytes(self):
        """Bytes that the features take on disk."""
        return sum(_folder_size(folder) for folder in self._folders())

    def clear(self):
        """Delete all features."""
        for folder in self._folders():
            shutil.rmtree(folder, ignore_errors=True)

    def __repr__(self):
        number = len(self._folders())
        entries = "1 entry" if number == 1 else f"{number} entries"
        held, limit = self.nbytes / 2**20, self.max_bytes / 2**20
        return f"FeatureCache({str(self.path)!r}: {entries}, {held:,.1f} of {limit:,.1f} MiB)"

    def prepare(self):
        """Make the folder, so that it can be written to."""
        self._check_folder()
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / _MARKER).is_file():
            with written_whole(self.path / _MARKER) as file:
                file.write(json.dumps({"format": _FORMAT}).encode())

    def make_room(self, folder, needed):
        """Let other entries go until this one may grow.

        Parameters
        ----------
        folder : Path
            That of the entry.
        needed : int
            Bytes it wants to add.

        Returns
        -------
        int
            Bytes it may add before it asks again; 0 where there is no room.
        """
        sizes = {each: _folder_size(each) for each in self._folders()}
        total = sum(sizes.values())
        for other in sorted(sizes, key=_last_use):
            if total + needed <= self.max_bytes:
                break
            # Other entries are not worth losing where this one has no room even alone.
            if sizes.get(folder, 0) + needed > self.max_bytes:
                break
            if other != folder and not is_being_written(other):
                shutil.rmtree(other, ignore_errors=True)
                total -= sizes[other] - _folder_size(other)
        room = self.max_bytes - total
        # Others may be writing too: nobody is given all the room at once.
        return max(needed, room // 8) if needed <= room else 0

    def unwritable(self, error):
        """Say of an error that it befell this folder, and what can be done."""
        message = f"cannot write to the feature cache in {self.path}: {error.strerror or error}"
        return OSError(error.errno, f"{message}; give FeatureCache a folder that can be written")

    def _check_folder(self):
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise ValueError(f"{self.path} is no folder; FeatureCache needs one") from None
        if _MARKER in names:
            found = _read_format(self.path / _MARKER)
            if found not in (_FORMAT, None):
                raise ValueError(
                    f"the feature cache in {self.path} has format {found}, this xfer knows "
                    f"{_FORMAT}; give another folder, or delete that one"
                )
        elif any(not name.startswith(_MARKER) for name in names):
            raise ValueError(
                f"{self.path} holds other files and no {_MARKER}: it is no feature cache; "
                "give an empty folder, or the name of one that is to be made"
            )

    def _folders(self):
        try:
            with os.scandir(self.path) as found:
                found = [each for each in found if each.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return [Path(each.path) for each in found if re.fullmatch("[0-9a-f]{32}", each.name)]


def _read_format(path):
    """Read a cache's format; None where the file is damaged: its entries say their own."""
    try:
        return int(json.loads(path.read_bytes())["format"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _folder_size(folder):
    total = 0
    try:
        with os.scandir(folder) as found:
            for each in found:
                total += each.stat(follow_symlinks=False).st_size
    except OSError:  # another process has just deleted it
        pass
    return total


def _last_use(folder):
    try:
        return (folder / "entry.json").stat().st_mtime_ns
    except OSError:
        return 0
