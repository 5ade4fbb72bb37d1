"""``python -m xfer`` is the command ``xfer``."""

import sys

from xfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
