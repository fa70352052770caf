"""``python -m usd.elevation`` is ``usd elevation``."""

from usd.app.elevation_estimate import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
