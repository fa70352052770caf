"""Randomness as a pure function of (seed, step): a resumed run replays exactly what an unbroken one drew."""

import hashlib

import torch


def mix(seed: int, *parts: "int | str") -> int:
    """Return a 63-bit seed from a seed and anything that should change it (step, rank, name of a stream)."""
    text = "/".join(map(str, (seed, *parts))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(device: "torch.device | str", seed: int, *parts: "int | str") -> torch.Generator:
    """Return a fresh generator on ``device``, seeded with ``mix(seed, *parts)``."""
    return torch.Generator(device).manual_seed(mix(seed, *parts))
