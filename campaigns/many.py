"""Concurrency: processes and threads share a cache, a file or a network, or use one after a fork.

Run with ``python campaigns/many.py [--seconds 60] [--seed 0]``; needs Linux and gcc.

- cache: 8 processes with 16 threads each read and write overlapping rows of several keys in one
  file, which is so small that keys are evicted all the time. Each row that is served is compared.
- ignored locks, refused locks: the same where file locks do nothing, or fail. A process may give up
  its cache with a warning, or get an error that names it; a new file is used each second.
- save: two processes save different models under one name, while a third loads that file.
- threads: 16 threads use one network with batches of different sizes.
- fork: a network already in use is used in a forked process, also while other threads use it.
"""

import argparse
import multiprocessing
import os
import queue
import random
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
from crash import build_shim

import xfer
from xfer.cache import FeatureCache, example_digests
from xfer.sources import onnx_session

PROCESSES, THREADS = 8, 16
WORDS, WIDTH = 400, 600
KEYS = [{"network": letter} for letter in "abcdef"]
LONGEST = 120  # seconds without an answer


def row(key, word):
    """Return features that tell which key and word they belong to."""
    seed = zlib.crc32(f"{key['network']} {word}".encode())
    return np.random.RandomState(seed).normal(size=WIDTH).astype(np.float32)


def use_cache(path, seconds, seed):
    """Read and write until the time is over; return how many rows were compared."""
    cache = FeatureCache(path, max_bytes=2_000_000)
    counts = in_threads(THREADS, lambda index: read_and_write(cache, seconds, seed + index))
    return sum(counts)


def use_cache_without_locks(path, seconds, seed):
    """Use a new file each second, as what was given up stays so; return the compared rows."""
    warnings.simplefilter("ignore")
    compared, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        name = f"{path}-{time.time():.0f}"
        try:
            compared += use_cache(name, 1, seed)
        except (OSError, ValueError) as error:  # another process is making it
            expect(name in str(error), f"{error!r} does not name the file")
    return compared


def read_and_write(cache, seconds, seed):
    """Read and write in one thread; return how many rows were compared."""
    rng, compared, end = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        key, first = rng.choice(KEYS), rng.randrange(WORDS)
        words = [str((first + step) % WORDS) for step in range(rng.randint(1, 60))]
        digests = example_digests(words)
        found, rows = cache.read(key, digests)
        expected = np.array([row(key, word) for word in words])
        if rows is not None:
            expect(np.array_equal(rows, expected[found]), f"wrong rows of {key}: {words}")
            compared += len(rows)
        if not found.all():
            missing = np.flatnonzero(~found)
            cache.write(key, [digests[index] for index in missing], expected[missing])
    return compared


def save_again_and_again(folder, number, seconds, seed):
    """Save one of two models under the name that both have; return how often."""
    model, count, end = fitted(number), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        model.save_repurposer("model", folder)
        count += 1
    return count


def load_again_and_again(folder, seconds, seed):
    """Load what is there; return how often."""
    images = xfer.example.digits()[0][:20]
    answers = [fitted(number).predict_proba(images) for number in (0, 1)]
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        if Path(folder, "model.xfer").exists():
            found = xfer.load("model", folder).predict_proba(images)
            expect(any(np.array_equal(found, one) for one in answers), "it is neither of the two")
            count += 1
    return count


def fitted(number):
    """Return one of two models."""
    images, digits = xfer.example.digits()
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    rows = slice(50 * number, 50 * number + 50)
    return xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[rows], digits[rows])


def use_network(source, seconds, seed):
    """Compute batches of different sizes; return how many examples were compared."""
    images = xfer.example.digits()[0][:300]
    right = source.extract(images, ["relu1", "relu2"]).matrix

    def work(index):
        rng, compared, end = random.Random(seed + index), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            rows = [rng.randrange(len(images)) for _ in range(rng.randint(1, 70))]
            found = source.extract(images[rows], ["relu1", "relu2"]).matrix
            expect(np.allclose(found, right[rows], rtol=1e-5, atol=1e-6), f"wrong rows: {rows}")
            compared += len(rows)
        return compared

    return sum(in_threads(THREADS, work))


def use_after_fork(seconds, seed):
    """Use a network, fork, and use it in the other process; return how often."""
    onnx_session._threads = lambda: 4  # ONNX Runtime then has threads of its own
    images = xfer.example.digits()[0][:100]
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    model = xfer.GpRepurposer(source, "relu2", pooling="max").fit(images[:50], range(50))
    right, stop = model.predict_proba(images), threading.Event()

    def use():
        while not stop.is_set():
            model.predict_proba(images)

    def use_and_forget():
        nonlocal model, source
        answers.put(model.predict_proba(images))
        model = source = None

    fork, count = multiprocessing.get_context("fork"), 0
    end = time.monotonic() + seconds
    for number in range(10**6):
        if time.monotonic() > end:
            return count
        stop.clear()
        busy = [threading.Thread(target=use) for _ in range(number % 3)]
        for thread in busy:
            thread.start()
        answers = fork.Queue()
        child = fork.Process(target=use_and_forget)
        child.start()
        try:
            found = answers.get(timeout=LONGEST)
        except queue.Empty:
            child.kill()
            raise AssertionError(
                f"it hangs after the fork, with {len(busy)} busy threads"
            ) from None
        finally:
            stop.set()
        child.join(LONGEST)
        expect(child.exitcode == 0, f"exit code {child.exitcode}")
        expect(np.allclose(found, right, rtol=1e-6), "other numbers after a fork")
        count += 1
        for thread in busy:
            thread.join()
    return count


def expect(condition, message):
    """Raise AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def in_threads(count, work):
    """Return what threads return; the first error of one is raised."""
    results, errors = [], []

    def run(index):
        try:
            results.append(work(index))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def in_processes(*works):
    """Run functions with arguments in processes of their own; return (counts, errors)."""
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    started = [spawn.Process(target=answer, args=(answers, *work)) for work in works]
    for process in started:
        process.start()
    found = []
    while len(found) < len(started):
        try:
            found.append(answers.get(timeout=LONGEST))
        except queue.Empty:
            found.append(f"no answer; exit codes {[process.exitcode for process in started]}")
            break
    for process in started:
        process.join(1 if isinstance(found[-1], str) else LONGEST)
        process.kill()
    return [one for one in found if isinstance(one, int)], [s for s in found if isinstance(s, str)]


def answer(answers, function, *arguments):
    """Put the result of a function, or the text of its error."""
    try:
        answers.put(int(function(*arguments)))
    except BaseException:
        answers.put(traceback.format_exc())


def main(arguments=None):
    """Print a table; return how many processes failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each part (60)")
    parser.add_argument("--seed", type=int, default=0)
    names = ["cache", "ignored locks", "refused locks", "save", "threads", "fork"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args(arguments)
    times = options.seconds, options.seed
    n_failed = 0
    print("| at once | compared | failed | seed |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "features.sqlite")
        shared = Path(folder, "shared")
        shared.mkdir()
        parts = {
            "cache": [
                (use_cache, cache, options.seconds, options.seed + 100 * number)
                for number in range(PROCESSES)
            ],
            "save": [
                (save_again_and_again, shared, 0, *times),
                (save_again_and_again, shared, 1, *times),
                (load_again_and_again, shared, *times),
            ],
            "threads": [(use_network_of_its_own, *times)],
            "fork": [(use_after_fork, *times)],
        }
        for kind in ("ignored", "refused"):
            parts[f"{kind} locks"] = [
                (use_cache_without_locks, f"{cache}-{kind}", *works[2:]) for works in parts["cache"]
            ]
        shim = str(build_shim(folder))
        for name in options.only:
            if name.endswith("locks"):
                os.environ.update(LD_PRELOAD=shim, XFER_LOCKS=name.partition(" ")[0])
            counts, errors = in_processes(*parts[name])
            for variable in ("LD_PRELOAD", "XFER_LOCKS"):
                os.environ.pop(variable, None)
            left = [one for one in os.listdir(shared) if one != "model.xfer"]
            errors += [f"left: {left}"] * bool(left)
            print(f"| {name} | {sum(counts):,} | {len(errors)} | {options.seed} |", flush=True)
            print(*errors[:2], sep="\n", end="", file=sys.stderr, flush=True)
            n_failed += len(errors)
    return n_failed


def use_network_of_its_own(seconds, seed):
    """Let threads use a network."""
    return use_network(xfer.load_checkpoint(xfer.example.checkpoint()), seconds, seed)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
