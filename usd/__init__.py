"""Unbiased score distillation: from one picture, or a sentence, to a 3D object.

Importing the package is cheap: components and their libraries are imported when a configuration names them.
"""

__version__ = "0.1.0"
