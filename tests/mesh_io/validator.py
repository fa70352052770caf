"""The Khronos validator of glTF, where Node and its package ``gltf-validator`` are there."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = """
const validator = require('gltf-validator');
validator.validateBytes(new Uint8Array(require('fs').readFileSync(process.argv[1])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def issues_of(path: Path) -> dict:
    """The validator's issues. Skips where it is not installed (npm install gltf-validator; NODE_PATH names the folder)."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    done = subprocess.run(
        [node, "-e", SCRIPT, str(path)], capture_output=True, text=True, env=os.environ, check=False
    )
    if "Cannot find module" in done.stderr:
        pytest.skip("needs npm's gltf-validator")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
