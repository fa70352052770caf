"""Toybox: a procedural world of captioned toy objects, the ground truth that the embedded models are trained on.

An object is a pure function of its seed. Seeds below ``TEST_SEED`` may be trained on, seeds from it up never are.
The object faces the reference camera, give or take a turn that is part of the object.
"""

TEST_SEED = 1_000_000
REFERENCE_AZIMUTH_DEG = 90.0
REFERENCE_ELEVATION_DEG = 15.0
REFERENCE_DISTANCE = 1.5
REFERENCE_FOV_DEG = 39.597755335771296
