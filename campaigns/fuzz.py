"""Coverage-guided fuzzing: as ``hostile.py``, but files that reach new code are changed again.

Run with ``python campaigns/fuzz.py [--seconds 3600] [--only .xfer]``; needs Linux and ``pip install
atheris``. ``--seconds`` is for each format. It begins with the files in ``campaigns/corpus``;
``--keep`` replaces them with few small files of the same coverage. A file that failed is kept in
the working folder as ``crash-*``; ``python campaigns/fuzz.py --only=FORMAT -- crash-*`` repeats it.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

INSTRUMENTED = {"include": ["xfer", "skops", "json", "zipfile", "pickle"]}
with atheris.instrument_imports(**INSTRUMENTED):
    import hostile

CORPUS = Path(__file__).parent / "corpus"
LARGEST = 30_000  # bytes of a file that is kept


def fuzz(kind, files):
    """Read files as libFuzzer asks, in this process, which then ends."""
    form, folder = hostile.FORMATS[kind](), Path(tempfile.mkdtemp())
    seeds = form.seeds(folder)
    path, watch = folder / f"mutated{form.suffix}", hostile.Watch()

    def read(data):
        path.write_bytes(data)
        if wrong := watch.read(form, path):
            raise AssertionError(wrong)

    def change(part, rng, words):
        if rng.random() < 0.5:
            return hostile.mutate(part, rng, words)
        return atheris.Mutate(part, len(part) + 100)

    def mutate(data, largest, seed):
        rng = random.Random(seed)
        try:
            found = form.mutate(data if rng.random() < 0.99 else rng.choice(seeds), rng, change)
        except Exception:  # no archive
            found = atheris.Mutate(data, largest)
        return found if len(found) <= largest else data

    with atheris.instrument_imports(**INSTRUMENTED):
        for content in seeds:  # imports what reading needs
            path.write_bytes(content)
            hostile.attempt(form, path)
    again = f"{sys.executable} {__file__} --only={kind} --"  # libFuzzer merges in new processes
    atheris.Setup([again, *files], read, custom_mutator=mutate)
    atheris.Fuzz()


def campaign(kind, seconds, seed, keep):
    """Fuzz a format in a process of its own; return how many files were read, and a failure."""
    command = [sys.executable, __file__, f"--only={kind}", "--"]
    form, kept = hostile.FORMATS[kind](), CORPUS / kind.strip(".-")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as elsewhere:
        for number, content in enumerate(form.seeds(Path(elsewhere))):
            Path(folder, f"seed{number}").write_bytes(content)
        options = [f"-max_total_time={seconds}", f"-seed={seed + 1}", "-timeout=10"]
        options += [
            "-rss_limit_mb=4096",
            "-max_len=300000",
            "-print_final_stats=1",
            folder,
            str(kept),
        ]
        done = subprocess.run(command + options, capture_output=True, text=True)
        tried = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
        if keep:
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            limits = ["-merge=1", f"-max_len={LARGEST}"]
            subprocess.run([*command, *limits, str(kept), folder], check=True, capture_output=True)
    failure = f"{done.stderr[-3000:]}\nexit code {done.returncode}\n" if done.returncode else ""
    return int(tried[-1]) if tried else 0, failure


def main():
    """Print a table; return how many formats failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3600, help="for each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(hostile.FORMATS))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("files", nargs="*", help="files to read, or options of libFuzzer")
    options = parser.parse_args()
    if options.files:
        fuzz(options.only[0], options.files)
    n_failed = 0
    print("| file | tried | seconds | failed | seed |\n| --- | --- | --- | --- | --- |", flush=True)
    for kind in options.only or hostile.FORMATS:
        tried, failure = campaign(kind, options.seconds, options.seed, options.keep)
        row = f"| {kind} | {tried:,} | {options.seconds} | {bool(failure):d} | {options.seed} |"
        print(row, flush=True)
        n_failed += bool(failure)
        print(failure, file=sys.stderr, end="", flush=True)
    return n_failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
