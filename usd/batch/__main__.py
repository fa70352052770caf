"""``python -m usd.batch`` is ``usd batch``."""

from usd.batch.command import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
