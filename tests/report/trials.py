"""A trial's folder as a training and an export leave it, made by hand in no time."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from usd.core.types import Mesh
from usd.math.mesh import vertex_normals
from usd.mesh_io.atlas import Atlas
from usd.mesh_io.write import ExportMesh, glb_bytes, picture_bytes

PROMPT = "a <b>red</b> car & </script><script>alert(1)</script>"
CONFIG = f"""name: family
description: a tiny trial
tag: car
seed: 7
system_type: usd-system
system:
  guidance_type: usd-guidance
  guidance: {{pretrained_model_name_or_path: toybox-sd, guidance_scale: 2.0}}
  prompt_processor: {{prompt: {json.dumps(PROMPT)}}}
data: {{reference_azimuth_deg: 90.0, reference_elevation_deg: 15.0}}
trainer: {{max_steps: 40}}
"""


def textured_cube(color: float = 0.8, size: int = 64) -> bytes:
    """A cube with a texture: two triangles a side, each side on the whole texture."""
    corners = torch.tensor([[x, y, z] for x in (-0.4, 0.4) for y in (-0.4, 0.4) for z in (-0.4, 0.4)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = torch.tensor([face for a, b, c, d in quads for face in ([a, b, c], [a, c, d])])
    uv = torch.tensor([[0.05, 0.05], [0.95, 0.05], [0.95, 0.95], [0.05, 0.95]])
    atlas = Atlas(uv, torch.tensor([[0, 1, 2], [0, 2, 3]] * 6), 1, "boxes")
    picture = torch.rand(size, size, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + color * 0.8
    normals = vertex_normals(corners, faces)
    return glb_bytes(
        ExportMesh(Mesh(corners, faces), normals, atlas, picture_bytes(picture, "png"), unlit=True)
    )


def write_trial(folder: Path, color: float = 0.8, scale: float = 2.0) -> Path:
    """Write configuration, logs, pictures, an exported file and the figures of a run."""
    save = folder / "save"
    for name in ("configs", "csv_logs/version_0", "save/it40-test", "save/it40-export"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "parsed.yaml").write_text(
        CONFIG.replace("guidance_scale: 2.0", f"guidance_scale: {scale}")
    )
    change = {"system.guidance.guidance_scale": {"recipe": 10.0, "here": scale}}
    (folder / "configs" / "changes.json").write_text(json.dumps(change))
    (folder / "cmd.txt").write_text("/usr/bin/python3 -m usd train usd-patch-mini\n")
    rows = [f"{step},{100 / (step + 1)},{step / 40},500\n" for step in range(40)]
    header = "step,train/loss,train/opacity,train/t\n"
    (folder / "csv_logs" / "version_0" / "metrics.csv").write_text(header + "".join(rows) + "40,1")
    pixels = np.full((32, 32, 3), int(color * 255), np.uint8)
    for name in ("reference", "it20-0", "it40-0", "it40-test/0", "it40-test/1"):
        Image.fromarray(pixels).save(save / f"{name}.png")
    (save / "it40-test" / "metrics.json").write_text(
        json.dumps({"psnr": 21.4, "ssim": 0.9, "lpips": 0.12, "views": 2})
    )
    (save / "it40-export" / "model.glb").write_bytes(textured_cube(color))
    (save / "it40-export" / "model-report.json").write_text(
        json.dumps({"faces": 12, "agreement": {"psnr": 30.0}})
    )
    run = {
        "step": 40,
        "seconds": 75.0,
        "peak_memory_gib": 0.8,
        "device": "CPU",
        "versions": {"torch": "2.13"},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder
