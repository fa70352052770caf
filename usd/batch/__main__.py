"""``python -m usd.batch``: many objects, one after another or side by side."""

from usd.batch.command import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
