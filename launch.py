#!/usr/bin/env python3
"""``python launch.py --config FILE --train key=value ...``; the code is in usd/app/launcher.py."""

import sys

from usd.app.launcher import main
from usd.core import process

if __name__ == "__main__":
    process.restart_in_utf8()
    sys.exit(main())
