"""``python -m usd``: the command ``usd``."""

import sys

from usd.app.commands import main

if __name__ == "__main__":
    sys.exit(main())
