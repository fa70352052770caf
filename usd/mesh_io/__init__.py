"""Mesh files in and out: the one reader and the one writer of the package.

``read_mesh`` (read.py) returns a ``ColoredMesh`` (colored_mesh.py) for GLB, glTF, OBJ, PLY, STL and OFF files;
``pictures`` (pictures.py) shows one without light; write.py makes the bytes of GLB, OBJ, PLY and STL files.
"""
