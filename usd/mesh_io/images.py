"""Texture pictures: encoded bytes to sRGB bytes with alpha."""

import io

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor


def decode_image(content: bytes) -> UInt8[Tensor, "h w 4"]:
    """Return the pixels of an encoded picture (PNG, JPEG, WebP, ...). Raises OSError for what is no picture."""
    with Image.open(io.BytesIO(content)) as opened:
        image: Image.Image = opened
        if image.mode.startswith("I"):  # 16 bits of gray, which Pillow would cut off instead of scaling
            gray = np.asarray(image).astype(np.float64) / 257
            image = Image.fromarray(gray.round().clip(0, 255).astype(np.uint8))
        return torch.from_numpy(np.array(image.convert("RGBA")))
