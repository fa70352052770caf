"""Meshes as USDZ, the files that phones open: one layer of text and its pictures in an aligned zip.

The package follows the USDZ specification (https://openusd.org/release/spec_usdz.html): stored, never compressed, the
layer first, and the contents of each file at a multiple of 64 bytes. The layer says which axis is up and how many
meters a unit is. An unlit surface shines with its own color (``emissiveColor``), so that viewers add no light.
"""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from usd.math.color import linear_from_srgb
from usd.mesh_io.write import ExportMesh, picture_bytes

ALIGNMENT = 64
LOCAL_HEADER = 30
"""Bytes of a zip's local header before the file's name."""
PADDING_ID = 0x1986
"""Header id of the extra field that fills the gap; readers skip ids that they do not know."""
LAYER = "model.usda"
PREVIEW = "/Object/Material/Preview"


@dataclass(frozen=True)
class StageUnits:
    """Units of a USD stage: the axis that is up, and the meters of one unit of length."""

    up: Literal["Y", "Z"] = "Y"
    meters_per_unit: float = 1.0


def usdz_bytes(surface: ExportMesh, units: StageUnits) -> bytes:
    """Return a USDZ package of a surface in the axes and units of its file."""
    return aligned_zip({LAYER: layer_text(surface, units).encode(), **_texture_files(surface)})


def aligned_zip(files: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed zip in which the contents of every file start at a multiple of 64 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # its date is 1980: the same object gives the same bytes
            begin = buffer.tell() + LOCAL_HEADER + len(name.encode()) + 4
            gap = -begin % ALIGNMENT
            entry.extra = struct.pack("<HH", PADDING_ID, gap) + bytes(gap)
            archive.writestr(entry, content)
    return buffer.getvalue()


def layer_text(surface: ExportMesh, units: StageUnits) -> str:
    """Return the layer: an object of one mesh and one material."""
    return f"""#usda 1.0
(
    defaultPrim = "Object"
    metersPerUnit = {units.meters_per_unit:.9g}
    upAxis = "{units.up}"
)

def Xform "Object" (
    kind = "component"
)
{{
    def Mesh "Surface" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        uniform token subdivisionScheme = "none"
        rel material:binding = </Object/Material>
{_indented(_mesh_lines(surface), 8)}
    }}

    def Material "Material"
    {{
        token outputs:surface.connect = <{PREVIEW}.outputs:surface>

{_indented(_material_lines(surface), 8)}
    }}
}}
"""


def _texture_files(surface: ExportMesh) -> dict[str, bytes]:
    """Return the package's pictures: base color, then roughness and metallic."""
    if not surface.texture:
        return {}
    found = {_color_file(surface): surface.texture}
    if surface.finish is not None:
        found["textures/finish.png"] = picture_bytes(surface.finish, "png")
    return found


def _color_file(surface: ExportMesh) -> str:
    return f"textures/color.{surface.picture_format}"


def _mesh_lines(surface: ExportMesh) -> list[str]:
    """Return the attributes of the mesh; seams are in the texture coordinates alone, as in an OBJ."""
    mesh = surface.mesh
    corners = [mesh.vertices.amin(0).tolist(), mesh.vertices.amax(0).tolist()]
    lines = [
        f"float3[] extent = [{', '.join(map(_tuple, corners))}]",
        f"int[] faceVertexCounts = [{', '.join(['3'] * len(mesh.faces))}]",
        f"int[] faceVertexIndices = {_integers(mesh.faces)}",
        f"point3f[] points = {_tuples(mesh.vertices)}",
        f"normal3f[] normals = {_tuples(surface.normals)} (",
        '    interpolation = "vertex"',
        ")",
    ]
    if surface.texture and surface.atlas is not None:
        # USD counts v from below, our atlas from above.
        up = surface.atlas.uv * surface.atlas.uv.new_tensor([1, -1]) + surface.atlas.uv.new_tensor([0, 1])
        lines += [
            f"texCoord2f[] primvars:st = {_tuples(up)} (",
            '    interpolation = "faceVarying"',
            ")",
            f"int[] primvars:st:indices = {_integers(surface.atlas.faces)}",
        ]
    elif mesh.color is not None:
        # Colors of vertices are linear in USD, as in glTF.
        lines += [
            f"color3f[] primvars:displayColor = {_tuples(linear_from_srgb(mesh.color.clamp(0, 1)))} (",
            '    interpolation = "vertex"',
            ")",
        ]
    return lines


def _material_lines(surface: ExportMesh) -> list[str]:
    """Return the shaders: a preview surface, and what it reads."""
    source, readers = _color_source(surface)
    color, other = ("emissiveColor", "diffuseColor") if surface.unlit else ("diffuseColor", "emissiveColor")
    value = f".connect = <{source}>" if source else " = (0.8, 0.8, 0.8)"
    finish = bool(surface.texture) and surface.finish is not None
    part = "/Object/Material/Finish.outputs"
    return [
        *_shader(
            "Preview",
            "UsdPreviewSurface",
            [
                f"color3f inputs:{color}{value}",
                f"color3f inputs:{other} = (0, 0, 0)",
                f"float inputs:roughness{f'.connect = <{part}:g>' if finish else ' = 1'}",
                f"float inputs:metallic{f'.connect = <{part}:b>' if finish else ' = 0'}",
                "token outputs:surface",
            ],
        ),
        *readers,
        *(
            _picture_reader("Finish", "textures/finish.png", "raw", ["float outputs:g", "float outputs:b"])
            * finish
        ),
    ]


def _color_source(surface: ExportMesh) -> tuple[str, list[str]]:
    """Return the output that holds the colors ("": none does), and the shaders that read them."""
    if surface.texture:
        reader = _primvar_reader("Coordinates", "UsdPrimvarReader_float2", "st", "float2")
        picture = _picture_reader("Color", _color_file(surface), "sRGB", ["float3 outputs:rgb"])
        return "/Object/Material/Color.outputs:rgb", [*reader, *picture]
    if surface.mesh.color is not None:
        reader = _primvar_reader("VertexColor", "UsdPrimvarReader_float3", "displayColor", "float3")
        return "/Object/Material/VertexColor.outputs:result", reader
    return "", []


def _picture_reader(name: str, file: str, space: str, outputs: Sequence[str]) -> list[str]:
    """Return a reader of a picture, which is not repeated beyond its border."""
    return _shader(
        name,
        "UsdUVTexture",
        [
            f"asset inputs:file = @{file}@",
            f'token inputs:sourceColorSpace = "{space}"',
            "float2 inputs:st.connect = </Object/Material/Coordinates.outputs:result>",
            'token inputs:wrapS = "clamp"',
            'token inputs:wrapT = "clamp"',
            *outputs,
        ],
    )


def _primvar_reader(name: str, kind: str, variable: str, result: str) -> list[str]:
    return _shader(name, kind, [f'string inputs:varname = "{variable}"', f"{result} outputs:result"])


def _shader(name: str, kind: str, lines: Sequence[str]) -> list[str]:
    """Return a shader node of the given kind."""
    return [
        f'def Shader "{name}"',
        "{",
        f'    uniform token info:id = "{kind}"',
        *[f"    {x}" for x in lines],
        "}",
    ]


def _tuple(row: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.7g}' for value in row)})"


def _tuples(rows: Float[Tensor, "N C"]) -> str:
    return f"[{', '.join(map(_tuple, rows.detach().cpu().tolist()))}]"


def _integers(rows: Int[Tensor, "N C"]) -> str:
    return f"[{', '.join(map(str, rows.cpu().flatten().tolist()))}]"


def _indented(lines: Sequence[str], spaces: int) -> str:
    return "\n".join(" " * spaces + line for line in lines)
