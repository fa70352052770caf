"""Kernels: the few loops that torch cannot run fast, each beside a twin in plain torch with the same signature.

``runtime`` launches NVIDIA Warp kernels on CPU threads or on the current CUDA stream, ``hash_grid`` encodes
positions, ``occupancy`` remembers where space is empty, ``ray_march`` places samples along rays and composites
them. The files ending in ``_warp`` hold kernel source; they alone import warp, and only once a kernel runs.
"""
