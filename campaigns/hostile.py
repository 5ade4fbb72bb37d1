"""Hostile files: each must be read, or refused with an error that names it, and nothing else.

Run with ``python campaigns/hostile.py [--count N] [--seed 0] [--only .xfer]``; needs Linux.
``--count`` is the number of files of each format; by default 1,050,000 in all. Files that xfer
wrote are changed at random: bits flipped, counts and keywords replaced, parts repeated or removed.
Changes to a saved repurposer are made inside its archive, which gets a valid checksum. First come
files with one trick each, whose indices are negative; with ``--count``, their graphs have 10,000
nodes instead of a million. Each file must be read or refused with a ValueError that names it

- within 5 s plus 10 s per MB of the file, in at most 200 MB plus 60 times its size of memory more;
- without a crash of the process;
- without running code: no process started, no connection opened, no file written, and no module
  imported outside a fixed list.

``--only=FORMAT --first=INDEX --count=1`` repeats one trial.
"""

import argparse
import multiprocessing
import os
import pickle
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from tricks import TRICKS, archive, members

import xfer
from xfer.checkpoint.params import read_params
from xfer.cli import main as command
from xfer.persistence import _CHECKSUM_LENGTH, _checksum

SECONDS, MEMORY = 5, 200 * 2**20
SECONDS_PER_BYTE, MEMORY_PER_BYTE = 10e-6, 60
#: Counts and sizes that can mislead a reader: small ones, and the limits of each type.
EXTREMES = (0, 1, 2, 3, 7, 12, 33, 2**15, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63)
EXTREMES += (-1, -2, -(2**31), -(2**63), 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA)
#: Pieces of text that can mislead a reader of JSON.
WORDS = ["-1", "0", "1e999", "NaN", "null", "true", "{}", "[]", '""', '"os"', str(2**62)]
WORDS += ['"../../x"', '"/etc/passwd"', '"\\ud800"', '"\\u0000"']
WORDS += ["9" * 30, "9" * 5000, "[" * 2000]
#: Events of Python's audit hooks that must not occur, and packages that may be imported.
FORBIDDEN = re.compile(
    r"(os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|remove|rename|rmdir|mkdir|link|"
    r"symlink|chmod|truncate|kill|putenv)|subprocess\.|socket\.|shutil\.|ctypes\.dlopen|urllib\.|"
    r"code\.__new__|webbrowser\.|pty\.|ftplib\.|http\.|smtplib\.)"
)
PACKAGES = {
    "xfer",
    "sklearn",
    "scipy",
    "numpy",
    "onnx",
    "onnxruntime",
    "skops",
    "google",
    "encodings",
}


class Format:
    """A kind of file: how it is made, changed and read."""

    suffix = ""

    def seeds(self, folder):
        """Write some files; return their contents."""

    def mutate(self, content, rng, change=None):
        """Return a changed file; ``change`` changes bytes as the function ``mutate`` does."""
        return (change or mutate)(content, rng, [word.encode() for word in WORDS])

    def read(self, path):
        """Read a file as a user would."""


class Params(Format):
    suffix = ".params"

    def seeds(self, folder):
        return [Path(f"{xfer.example.checkpoint()}-0000.params").read_bytes()]

    def mutate(self, content, rng, change=None):
        head = content[:200] + content[-400:] if rng.random() < 0.5 else content
        return (change or mutate)(head, rng, [b"arg:", b"aux:"])

    def read(self, path):
        assert all(isinstance(values, np.ndarray) for values in read_params(path).values())


class Symbol(Format):
    suffix = "-symbol.json"

    def seeds(self, folder):
        prefix = Path(xfer.example.checkpoint())
        parameters = Path(f"{prefix}-0000.params").read_bytes()
        (folder / "mutated-0000.params").write_bytes(parameters)
        return [Path(f"{prefix}-symbol.json").read_bytes()]

    def read(self, path):
        repr(xfer.load_checkpoint(str(path).removesuffix("-symbol.json")).layers)


class Onnx(Format):
    suffix = ".onnx"

    def seeds(self, folder):
        with redirect_stdout(None):
            command(["convert", str(xfer.example.checkpoint()), str(folder / "seed.onnx")])
        return [(folder / "seed.onnx").read_bytes()]

    def read(self, path):
        repr(xfer.open_source(str(path)).layers)


class Saved(Format):
    suffix = ".xfer"

    def seeds(self, folder):
        images, digits = xfer.example.digits()
        source = xfer.load_checkpoint(xfer.example.checkpoint())
        contents = []
        for kind in (xfer.LrRepurposer, xfer.GpRepurposer, xfer.AutoRepurposer):
            model = kind(source, "relu2", pooling="max").fit(images[:30], digits[:30])
            model.save_repurposer("seed", folder)
            contents.append((folder / "seed.xfer").read_bytes())
        return contents

    def mutate(self, content, rng, change=None):
        change = change or mutate
        if rng.random() < 0.1:
            changed = change(content[:-_CHECKSUM_LENGTH], rng, [])
        else:
            parts = members(content)
            name = "schema.json" if rng.random() < 0.5 else rng.choice(list(parts))
            parts[name] = change(parts[name], rng, [word.encode() for word in WORDS])
            if rng.random() < 0.05:
                again = rng.choice(list(parts))
                parts[zipfile.ZipInfo(again)] = parts[again]
            if rng.random() < 0.05:
                parts[f"../{name}"] = parts.pop(name)
            return archive(parts)
        return changed + _checksum(changed)

    def read(self, path):
        xfer.load(path).features_.layers_  # noqa: B018


class VocabularyJson(Format):
    suffix = ".json"

    def seeds(self, folder):
        words = ["</s>", "</ukw>", *(f"word{n}" for n in range(20))]
        xfer.Vocabulary.from_words(words).save(folder / "seed.json")
        return [(folder / "seed.json").read_bytes()]

    def read(self, path):
        xfer.Vocabulary.load(path)


class VocabularyPickle(Format):
    suffix = ".pkl"

    def seeds(self, folder):
        return tutorial_pickles()

    def mutate(self, content, rng, change=None):
        words = [b"cos\nsystem\n", b"(S'id'\ntR.", b"\x8c\x02os\x94", b"R", b"b"]
        return (change or mutate)(content, rng, words)

    def read(self, path):
        xfer.Vocabulary.load_pickle(path)


FORMATS = {kind.suffix: kind for kind in (Params, Symbol, Saved, Onnx, VocabularyJson)}
FORMATS[".pkl"] = VocabularyPickle


def tutorial_pickles():
    """Return a vocabulary as the published tutorial pickled it, in the protocols that are read."""
    words = ["a", "car", "", "</s>", "</ukw>"]
    found = type("Vocabulary", (), {"__module__": "__main__"})()
    vars(found).update(padding_word="</s>", unknown_word="</ukw>", max_length=5, id2word=words)
    found.word2id = {word: index for index, word in enumerate(words)}
    found.word_counts = Counter(["a", "car", "a"])
    main = sys.modules["__main__"]
    main.Vocabulary = type(found)
    return [pickle.dumps(found, protocol) for protocol in (2, 3, 4, 5)]


def mutate(content, rng, words):
    """Change, insert, repeat, remove or truncate some bytes."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, few = rng.randrange(len(data) + 1), rng.randint(1, 17)
        kind = rng.choice(["flip", "extreme", "insert", "delete", "repeat", "word", "truncate"])
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "extreme":
            size = rng.choice([4, 8])
            data[at : at + size] = (rng.choice(EXTREMES) % 2 ** (8 * size)).to_bytes(size, "little")
        elif kind == "insert":
            data[at:at] = rng.randbytes(few)
        elif kind == "delete":
            del data[at : at + few]
        elif kind == "repeat":
            part = data[at : at + rng.choice([few, 200])]
            start = rng.randrange(len(data) + 1)
            data[start:start] = part
        elif kind == "word" and words:
            replace_word(data, at, rng.choice(words))
        elif kind == "truncate" and rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def replace_word(data, at, word):
    """Put a word in the place of the next number or string."""
    found = re.compile(rb'"[^"]*"|-?[0-9][0-9.]*|null|true|false').search(data, at)
    data[slice(*found.span()) if found else slice(at, at)] = word


def trials(kind, first, count, seed, size, folder, progress, failures):
    """Read tricks and mutations in a process that is watched; send what is wrong."""
    form = FORMATS[kind]()
    seeds = form.seeds(folder)
    path = folder / f"mutated{form.suffix}"
    for content in seeds:  # imports what reading needs
        path.write_bytes(content)
        attempt(form, path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + MEMORY
    watch, refused = Watch(), 0
    for number in range(first, first + count):
        progress.value = number
        if number < 0:
            name = TRICKS[kind][number].__name__
            content = TRICKS[kind][number](seeds[0], size)
        else:
            name, rng = "", random.Random(f"{seed} {kind} {number}")
            content = form.mutate(rng.choice(seeds), rng)
        path.write_bytes(content)
        n_bytes = len(content)
        del content
        resource.setrlimit(resource.RLIMIT_AS, (limit + n_bytes * MEMORY_PER_BYTE, -1))
        wrong = watch.read(form, path, SECONDS + n_bytes * SECONDS_PER_BYTE)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        refused += wrong is None
        if wrong:
            failures.put((number, f"{name} {wrong}"))
    failures.put((None, refused))


class Watch:
    """Reads files, and notes what must not happen meanwhile."""

    def __init__(self):
        self.is_on, self.events = False, []
        sys.addaudithook(self.hook)
        signal.signal(signal.SIGALRM, too_long)

    def hook(self, event, arguments):
        if self.is_on and is_forbidden(event, arguments):
            self.events.append(f"{event} {arguments!r:.200}")

    def read(self, form, path, seconds=SECONDS):
        """Return "" if a file was read, None if it was refused, or what is wrong."""
        self.events.clear()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self.is_on = True
        wrong = attempt(form, path)
        self.is_on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return f"{wrong}\n{' '.join(self.events)}" if self.events else wrong


def attempt(form, path):
    """Read a file; return "" if it was read, None if it was refused, or what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(path)
    except ValueError as error:
        is_named = path.name.removesuffix(form.suffix) in str(error)
        return None if is_named else f"the file is not named: {error!r:.500}"
    except BaseException:
        return traceback.format_exc()[-1500:]
    return ""


def is_forbidden(event, arguments):
    """Return whether reading a file must not lead to this event."""
    if event == "import":
        name = str(arguments[0])
        return name.partition(".")[0] not in PACKAGES and name not in sys.modules
    if event == "open":
        _, mode, flags = arguments
        return bool(mode and set(mode) & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))
    return FORBIDDEN.match(event) is not None


def too_long(*_):
    """Interrupt what takes too long."""
    raise TimeoutError("too slow")


def campaign(kind, first, count, seed, size):
    """Try tricks and mutations of a format; return how many were refused, and what is wrong."""
    spawn, end, refused, wrong = multiprocessing.get_context("spawn"), first + count, 0, []
    while first < end:
        progress, failures = spawn.Value("q", first), spawn.SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            arguments = kind, first, end - first, seed, size, Path(folder), progress, failures
            process = spawn.Process(target=trials, args=arguments)
            process.start()
            number, done = 0, first
            while number is not None and process.is_alive():
                process.join(0.2)
                while not failures.empty():
                    number, found = failures.get()
                    if number is None:
                        refused += found
                    else:
                        wrong.append((number, found))
            process.join()
        if process.exitcode == 1:
            raise RuntimeError("the process could not begin")
        if process.exitcode == 0:
            break
        done = progress.value
        wrong.append((done, f"the process ended with {process.exitcode}"))
        first = done + 1
    return refused, wrong


def main(arguments=None):
    """Print a table; return how many trials failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=0, help="of each format (by its speed)")
    parser.add_argument("--first", type=int, help="index of the first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    options = parser.parse_args(arguments)
    usual = {".params": 300_000, "-symbol.json": 100_000, ".xfer": 50_000, ".onnx": 100_000}
    n_failed = 0
    print("| file | tried | refused | failed | seed |\n| --- | --- | --- | --- | --- |", flush=True)
    for kind in options.only:
        first, count = options.first, options.count or usual.get(kind, 250_000)
        if first is None:
            first = -len(TRICKS[kind])
            count -= first
        size = 10_000 if options.count else 1_000_000  # of graphs
        refused, wrong = campaign(kind, first, count, options.seed, size)
        row = f"| {kind} | {count:,} | {refused:,} | {len(wrong)} | {options.seed} |"
        print(row, flush=True)
        for number, text in wrong[:5]:
            print(f"--only={kind} --first={number}: {text}", file=sys.stderr, flush=True)
        n_failed += len(wrong)
    return n_failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
