"""Measuring results against ground truth: pure metrics, and the protocols that apply them to pictures."""
