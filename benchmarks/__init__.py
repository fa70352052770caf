"""Measurements of whole runs, kernels and claims; they run from a checkout."""

from pathlib import Path

from usd.core.process import keep_memory, wait_without_spinning

ROOT = Path(__file__).resolve().parents[1]

wait_without_spinning()  # before torch is imported: measured as the commands run
keep_memory()
