"""Small networks and encodings that components share: MLPs, hash grids, spherical harmonics, activations."""
