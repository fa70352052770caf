"""``python -m usd.demo`` is ``usd demo``."""

from usd.app.demo import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
