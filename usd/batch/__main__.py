"""``python -m usd.batch``: many objects, one after another or side by side."""

import sys

from usd.batch.command import main
from usd.core import process

if __name__ == "__main__":
    process.restart_in_utf8()
    sys.exit(main())
