"""``python -m usd``: the command ``usd``."""

from usd.app.commands import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
