"""Vocabularies that the published tutorial pickled, read without running what is in the file."""

import io
import pickle
import pickletools
from collections import Counter


def read_tutorial_pickle(data):
    """Return the attributes of the one tutorial vocabulary in a pickle."""
    _check_memo(data)
    unpickler = _TutorialUnpickler(io.BytesIO(data))
    pickled = unpickler.load()
    if type(pickled) is not unpickler.allowed["__main__", "Vocabulary"]:
        raise ValueError(f"it holds a {type(pickled).__name__}")
    return vars(pickled)


def _check_memo(pickled):
    """Refuse a pickle whose memo has a place so far out that making it takes all memory."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(pickled):
            raise pickle.UnpicklingError(f"it uses memo {argument} in {len(pickled)} bytes")


class _TutorialUnpickler(pickle.Unpickler):
    """Knows the two classes in a pickle of the published tutorial, and no other name."""

    def __init__(self, file):
        super().__init__(file)
        # Made for this one file, which could set attributes of any class that it can name.
        self.allowed = {
            ("__main__", "Vocabulary"): type("Vocabulary", (), {}),
            ("collections", "Counter"): type("Counter", (Counter,), {}),
        }

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return self.allowed[module, name]
