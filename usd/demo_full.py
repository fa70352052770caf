"""``python -m usd.demo_full`` is ``usd demo-full``."""

from usd.app.demo_full import main
from usd.core import process

if __name__ == "__main__":
    process.start(main)
