"""Interfaces that are not ours by design: the shapes under which other programs know these models."""
