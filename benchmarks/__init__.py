"""Measurements of whole runs, kernels and claims; they run from a checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
