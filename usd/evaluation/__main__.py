"""``python -m usd.evaluation`` is ``usd evaluate``."""

from usd.core import process
from usd.evaluation.command import main

if __name__ == "__main__":
    process.start(main)
