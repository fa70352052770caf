"""``python -m usd.demo_text`` is ``usd demo-text``."""

from usd.app.demo_text import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
