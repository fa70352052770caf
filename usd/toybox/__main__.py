"""``python -m usd.toybox`` is ``usd toybox``: the toybox itself knows nothing of files and command lines."""

import runpy

if __name__ == "__main__":
    runpy.run_module("usd.app.toys", run_name="__main__", alter_sys=True)
