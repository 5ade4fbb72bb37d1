"""Files that are written whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path):
    """Open a file that takes its name only when all of it has been written.

    Parameters
    ----------
    path : str or path-like
        A file of that name is replaced in one step; after an error or an interrupt it is still
        there as it was.

    Yields
    ------
    file object
        Binary, for writing and reading.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
