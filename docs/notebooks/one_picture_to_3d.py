# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One picture to a 3D object, on a CPU
#
# The embedded models turn one picture of a toy into a radiance field and a mesh, and the result is measured against the
# truth. No GPU and no download of models is needed. `jupytext --to ipynb docs/notebooks/one_picture_to_3d.py` makes a
# notebook of this file. On Colab, put the repository into the session first (upload it, or clone it into `usd`) and
# open the notebook there.

# %%
import os
import subprocess
import sys
from pathlib import Path

ROOT = next(
    (
        folder
        for folder in [Path.cwd(), *Path.cwd().parents, Path.cwd() / "usd"]
        if (folder / "launch.py").exists()
    ),
    None,
)
assert ROOT, "the repository is not here: change into its folder"
sys.path.insert(0, str(ROOT))
if "google.colab" in sys.modules:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "-r", ROOT / "requirements.txt"], check=True
    )

# %% [markdown]
# Numbers of steps and sizes are small, so that this ends in a minute or two. `FAST = False` is the recipe as it ships.

# %%
FAST = os.environ.get("USD_NOTEBOOK_FAST", "1") == "1"
OUT = Path(os.environ.get("USD_NOTEBOOK_OUT", "outputs/notebook")).resolve()
SMALL = ["trainer.max_steps=40", "trainer.val_check_interval=0"] if FAST else []

# %% [markdown]
# ## The picture
#
# A toy that the models were not trained on: seeds from 1,000,000 up never were.

# %%
from PIL import Image  # noqa: E402

SEED = 1_000_022
subprocess.run(
    [sys.executable, "-m", "usd.toybox", "render", "--seed", str(SEED), "--out", OUT / "toy"]
    + ["--views", "4" if FAST else "16", "--size", "64" if FAST else "128"],
    cwd=ROOT,
    check=True,
)
Image.open(OUT / "toy" / "input.png")

# %% [markdown]
# ## Training
#
# The launcher is a function of its arguments: the same words as on the command line.

# %%
import launch  # noqa: E402

code = launch.main(
    ["--config", str(ROOT / "configs" / "usd-patch-mini.yaml"), "--train", "--gpu", "cpu"]
    + [f"system.guidance.image_path={OUT / 'toy' / 'input.png'}"]
    + [f"data.eval_transforms={OUT / 'toy' / 'transforms.json'}"]
    + [f"exp_root_dir={OUT}", "tag=kettle", *SMALL]
)
assert code == 0
trial = max(OUT.glob("*/kettle@*"), key=lambda folder: folder.stat().st_mtime)

# %% [markdown]
# ## What came out
#
# Views that were held out, and how far they are from the truth.

# %%
import json  # noqa: E402

metrics = json.loads(next(trial.glob("save/it*-test/metrics.json")).read_text())
print({name: round(metrics[name], 3) for name in ("psnr", "ssim", "mask_iou")})
Image.open(next(trial.glob("save/it*-test.png")))

# %% [markdown]
# ## A mesh

# %%
code = launch.main(
    ["--config", str(trial / "configs" / "parsed.yaml"), "--export", "--gpu", "cpu"]
    + [f"resume={trial / 'ckpts' / 'last.ckpt'}"]
    + (["exporter_type=mesh-exporter", "exporter.texture_size=256", "exporter.resolution=48"] if FAST else [])
)
assert code == 0
mesh = max(trial.glob("save/it*-export/*.glb"))
print(f"{mesh}: {mesh.stat().st_size / 1e6:.1f} MB")
