"""``python -m usd.toybox`` is ``usd toybox``."""

from usd.app.toys import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
