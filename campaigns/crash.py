"""Crashes: a process that writes is killed or interrupted, or its calls fail, at every point.

Run with ``python campaigns/crash.py [--count 500] [--seed 0] [--only save]``; needs Linux and gcc.
``--count`` is the number of random moments, and the most calls that are tried for each kind of
fault. Each trial begins with an older version of the file. Then

- the process is killed at a random moment, or interrupted as by Ctrl-C;
- it is killed before, after or in the middle of each write, rename, fsync and other call that
  changes a file (each call in turn);
- one such call fails: the disk is full from there on, the file system is read-only, or it reports
  an error;
- the folder is removed.

Afterwards the old or the new file must be complete, and a second run must finish with the right
content and leave no other files. A process that is not killed must end
with a clear error.
"""

import argparse
import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

import xfer
from xfer.cache import FeatureCache
from xfer.cli import main as xfer_command

SHIM = Path(__file__).with_name("faults.c")
KILLED = {"before": 1, "half": 2, "after": 3}
FAILED = {"full disk": errno.ENOSPC, "read-only": errno.EROFS, "broken disk": errno.EIO}
FAIL = 4
LONGEST = 60  # seconds of one run


class Wrong(AssertionError):
    """A promise is broken."""


class Job:
    """Something that writes files into a folder; all of it runs in child processes."""

    def __init__(self, inputs):
        self.inputs = inputs  # a folder with what is read

    def before(self, folder):
        """Put what an earlier run left."""

    def run(self, folder):
        """Do the work."""

    def check(self, folder, done):
        """Raise Wrong unless all that is there is right; `done` if the work must be complete."""


class _OneFile(Job):
    """A file that is replaced."""

    name = ""

    def before(self, folder):
        (folder / self.name).write_bytes(b"old")

    def check(self, folder, done):
        content = (folder / self.name).read_bytes()
        if content != b"old" or done:
            self.check_new(folder / self.name, content)
        if done:
            expect(sorted(os.listdir(folder)) == [self.name], f"left: {os.listdir(folder)}")

    def check_new(self, path, content):
        expected = (self.inputs / self.name).read_bytes()
        expect(content == expected, f"{len(content)} bytes differ from {len(expected)} right ones")


class Save(_OneFile):
    name = "model.xfer"

    def run(self, folder):
        xfer.load(self.inputs / "model").save_repurposer(folder / "model")

    def check_new(self, path, content):
        images = xfer.example.digits()[0][:5]
        found, right = (
            xfer.load(one).predict_proba(images) for one in (path, self.inputs / "model")
        )
        expect(np.array_equal(found, right), "the file predicts something else")


class Convert(_OneFile):
    name = "network.onnx"

    def run(self, folder):
        command("convert", xfer.example.checkpoint(), folder / self.name)


class Export(_OneFile):
    name = "classifier.onnx"

    def run(self, folder):
        command("export", self.inputs / "model.xfer", folder / self.name)


class PredictCsv(_OneFile):
    name = "found.csv"

    def run(self, folder):
        command(
            "predict", self.inputs / "model.xfer", self.inputs / "a.npz", "-o", folder / self.name
        )

    def check(self, folder, done):
        if not done:  # the results until here are beside the old file
            names = {self.name, f"{self.name}.part", f"{self.name}.part.json"}
            left = [n for n in os.listdir(folder) if n not in names and not n.endswith(".part")]
            expect(not left, f"left: {left}")
        super().check(folder, done)


class PredictParquet(PredictCsv):
    name = "found.parquet"


class Fit(Job):
    """Features with a cache: what it serves is compared with what the network gives."""

    def before(self, folder):
        self.features(folder, 100)

    def run(self, folder):
        self.features(folder, 300)

    def check(self, folder, done):
        expect(
            np.array_equal(self.features(folder, 300), np.load(self.inputs / "relu.npy")), "rows"
        )
        names = {"features.sqlite", "features.sqlite-wal", "features.sqlite-shm"}
        expect({*os.listdir(folder)} <= names, f"left: {os.listdir(folder)}")

    def features(self, folder, n):
        cache = None if folder is None else FeatureCache(folder / "features.sqlite")
        source = xfer.load_checkpoint(xfer.example.checkpoint())
        features = xfer.LayerFeatures(source, ["relu1", "relu2"], pooling="mean", cache=cache)
        return features.fit_transform(xfer.example.digits()[0][:n])


JOBS = {"fit": Fit, "save": Save, "convert": Convert, "export": Export}
JOBS.update({"predict csv": PredictCsv, "predict parquet": PredictParquet})


def expect(condition, message):
    """Raise Wrong unless the condition holds."""
    if not condition:
        raise Wrong(message)


def command(*arguments):
    """Run a command of xfer; its errors are exit codes."""
    code = xfer_command([str(one) for one in arguments])
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise OSError(f"exit code {code}")


def make_inputs(folder):
    """Write what the jobs read, and the results that they should have."""
    images, digits = xfer.example.digits()
    images, digits = images[digits >= 5], digits[digits >= 5]
    source = xfer.load_checkpoint(xfer.example.checkpoint())
    model = xfer.LrRepurposer(source, "relu2", pooling="max").fit(images[:50], digits[:50])
    model.save_repurposer(folder / "model")
    np.savez(folder / "a.npz", data=np.tile(images, (3, 1, 1, 1))[:1500])
    np.save(folder / "relu.npy", Fit(folder).features(None, 300))
    with redirect_stdout(None):
        for kind in (Convert, Export, PredictCsv, PredictParquet):
            kind(folder).run(folder)


def child(work, log):
    """Start a process that does some work; its exit code is 0, 1 for a clear error, or 70."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd in 1, 2:
            os.dup2(log.fileno(), fd)
        warnings.simplefilter("ignore")
        work()
        code = 0
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid, log):
    """Return the exit code, or minus a signal's number; Wrong after too long."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise Wrong(f"it hangs: {text(log)}")


def text(log):
    """Return the end of what a process printed."""
    log.seek(0)
    return log.read()[-2000:]


class Campaign:
    """Trials of one job."""

    def __init__(self, job, shim, scratch):
        self.job, self.shim, self.scratch, self.n_tried, self.failures = job, shim, scratch, 0, []

    def trial(self, name, run=None, meanwhile=None):
        """Let the job run into a fault, and check what it leaves."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        self.n_tried += 1
        try:
            with tempfile.TemporaryFile("w+") as log:
                self.must(lambda: self.job.before(folder), log)
                pid = child(lambda: (run or self.job.run)(folder), log)
                if meanwhile is not None:
                    meanwhile(pid, folder)
                code = wait(pid, log)
                expect(code in (0, 1, -signal.SIGKILL, 130), f"exit code {code}: {text(log)}")
                if not folder.exists():
                    return
                self.must(lambda: self.job.check(folder, False), log)
                self.must(lambda: self.job.run(folder), log)
                self.must(lambda: self.job.check(folder, True), log)
        except Wrong as error:
            self.failures.append(f"{name}: {error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def must(self, work, log):
        """Do some work in a process, which must not fail."""
        code = wait(child(work, log), log)
        expect(code == 0, f"exit code {code}: {text(log)}")

    def random_moments(self, count, rng):
        """Kill, interrupt or remove the folder at random moments."""
        start = time.monotonic()
        self.trial("nothing")
        # About a third of this is the run itself; some faults come after its end, which is allowed.
        longest = (time.monotonic() - start) * 0.5
        for number in range(count):
            moment, kind = rng.uniform(0, longest), rng.choice(["kill", "kill", "Ctrl-C", "remove"])

            def meanwhile(pid, folder, moment=moment, kind=kind):
                time.sleep(moment)
                if kind == "remove":
                    while folder.exists():  # files may be added meanwhile
                        shutil.rmtree(folder, ignore_errors=True)
                elif os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGINT)

            self.trial(f"{kind} at {moment:.4f} s, trial {number}", meanwhile=meanwhile)

    def every_call(self, most):
        """Kill at each call that changes a file, and let it fail; at most so many calls."""
        kinds = [(name, kind, 0) for name, kind in KILLED.items()]
        kinds += [(name, FAIL, code) for name, code in FAILED.items()]
        for name, kind, code in kinds:
            for at in range(1, most + 1):
                read, write = os.pipe()

                def run(folder, at=at, kind=kind, code=code, write=write):
                    self.shim.watch(str(folder).encode(), at, kind, code)
                    try:
                        self.job.run(folder)
                    finally:
                        os.write(write, str(self.shim.counted()).encode())

                self.trial(f"{name}, call {at}", run)
                os.close(write)
                counted = int(os.read(read, 100) or at)
                os.close(read)
                if counted < at:  # it came to its end before
                    break


def main(arguments=None):
    """Print a table; return how many trials failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS))
    options = parser.parse_args(arguments)
    shim = os.environ.get("XFER_FAULTS")
    if shim is None:
        return again_with_shim(sys.argv[1:] if arguments is None else arguments)
    count, seed, n_failed = options.count, options.seed, 0
    print("| what is written | trials | failed | seed |\n| --- | --- | --- | --- |", flush=True)
    for name in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            inputs = Path(scratch, "inputs")
            inputs.mkdir()
            campaign = Campaign(JOBS[name](inputs), ctypes.CDLL(shim), scratch)
            make_inputs(inputs)  # here, so that the processes find all modules imported
            campaign.random_moments(count, random.Random(seed))
            campaign.every_call(count)
        print(f"| {name} | {campaign.n_tried:,} | {len(campaign.failures)} | {seed} |", flush=True)
        for failure in campaign.failures[:5]:
            print(failure, file=sys.stderr, flush=True)
        n_failed += len(campaign.failures)
    return n_failed


def build_shim(folder):
    """Compile the library that makes calls fail; return its path."""
    shim = Path(folder, "faults.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", SHIM, "-o", shim, "-ldl"], check=True)
    return shim


def again_with_shim(arguments):
    """Run this program once more, with the library that makes calls fail."""
    with tempfile.TemporaryDirectory() as folder:
        shim = build_shim(folder)
        # One thread: a process that forks must not have others.
        variables = {"LD_PRELOAD": str(shim), "XFER_FAULTS": str(shim), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, *map(str, arguments)]
        return subprocess.run(command, env={**os.environ, **variables}).returncode


if __name__ == "__main__":
    sys.exit(min(main(), 1))
