"""Seconds that ``import xfer`` takes beyond importing scikit-learn's linear models.

Run with ``python benchmarks/import_time.py``.
"""

import subprocess
import sys

import numpy as np

STATEMENTS = {
    "scikit-learn's linear models": "import sklearn.linear_model",
    "xfer": "import xfer",
    "both": "import sklearn.linear_model, xfer",
    "both, and the repurposers": "import sklearn.linear_model, xfer; xfer.LrRepurposer",
}


def main(rounds=7):
    """Print medians; a new Python for each figure, in turns."""
    timer = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    seconds = {name: [] for name in STATEMENTS}
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            command = [sys.executable, "-c", timer.format(statement)]
            seconds[name].append(float(subprocess.check_output(command)))
    print("| import | median s |\n| --- | --- |")
    for name, values in seconds.items():
        print(f"| {name} | {np.median(values):.3f} |")


if __name__ == "__main__":
    main()
