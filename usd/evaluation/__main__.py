"""``python -m usd.evaluation PRED --reference REF``: how far a result is from the truth."""

import sys

from usd.evaluation.command import main

if __name__ == "__main__":
    sys.exit(main())
