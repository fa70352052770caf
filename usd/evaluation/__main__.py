"""``python -m usd.evaluation PRED --reference REF``: how far a result is from the truth."""

from usd.core import process
from usd.evaluation.command import main

if __name__ == "__main__":
    process.start(main)
