"""Which pixels of a picture are object: from its alpha, from a file beside it, or from a plain background.

What was assumed is said in a sentence. A policy is one of

    auto        alpha if any picture has it, else mask files, else a plain border color, else nothing is known
    alpha       the pictures' own alpha; an error where there is none
    files       mask files; an error where one is missing
    background  flood-fill the color of the border, whatever the alpha says
    none        every pixel counts as object: nothing is known
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from usd.core.config import UserError
from usd.data.cutting import cut_opaque, find_padding, has_alpha, remove_plain_background
from usd.data.file_names import nearby
from usd.data.pictures import over, picture_header, read_picture, read_values, resize_rgba, same_shape

MaskPolicy = Literal["auto", "alpha", "files", "background", "none"]
TOLERANCE = 0.06
"""How far a background pixel may be from the border color, of 1."""

PREVIEW = 512
"""Longest side of the small readings by which a capture's masks are guessed."""

Pictures = list[Float[Tensor, "4 _ _"]]


def apply_masks(
    pictures: Pictures, names: Sequence[str], files: Sequence[Path | None], policy: MaskPolicy, where: str
) -> tuple[Pictures, bool, list[str]]:
    """Return the pictures with alpha as the policy says, whether alpha means anything, and what was assumed.

    ``files`` are the masks that belong to the pictures, None where there is no such file.
    """
    if policy == "auto":
        return _guess_masks(pictures, names, files, where)
    if policy == "alpha":
        if not _has_alpha(pictures):
            raise UserError(f"{where}: no picture has transparency; expected RGBA, or another `masks` policy")
        return pictures, True, ["masks are the pictures' alpha"]
    if policy == "files":
        return (
            _masks_from_files(pictures, names, files, where),
            True,
            ["masks are the files beside the pictures"],
        )
    if policy == "background":
        return _cut_backgrounds(pictures, [f"{where}: {name}" for name in names]), True, [PLAIN]
    return (
        [_without_alpha(picture) for picture in pictures],
        False,
        ["masks ignored: every pixel counts as object"],
    )


PLAIN = "masks made by removing the plain color of the border; parts of that color at the outline are lost"
UNKNOWN = "no masks and no plain background ({}): every pixel counts as object, silhouettes say nothing"


def _guess_masks(
    pictures: Pictures, names: Sequence[str], files: Sequence[Path | None], where: str
) -> tuple[Pictures, bool, list[str]]:
    if _has_alpha(pictures):
        opaque = sum(not _has_alpha([picture]) for picture in pictures)
        note = f"masks are the pictures' alpha ({opaque} of {len(pictures)} are opaque throughout)"
        return pictures, True, [note if opaque else "masks are the pictures' alpha"]
    if any(file is not None for file in files):
        return (
            _masks_from_files(pictures, names, files, where),
            True,
            ["masks are the files beside the pictures"],
        )
    try:
        return _cut_backgrounds(pictures, names), True, [PLAIN]
    except UserError as error:
        return (
            [_without_alpha(picture) for picture in pictures],
            False,
            [UNKNOWN.format(str(error).split(": ")[0])],
        )


# ------------------------------------------------------------------------------------------------ one picture at a time


@dataclass(frozen=True)
class MaskRule:
    """The rule that all pictures of a capture are cut out by, so that each can be cut by itself.

    ``known`` is whether alpha then means anything; ``padded`` whether all have the same bars of padding.
    """

    policy: Literal["alpha", "files", "background", "none"]
    padded: bool = False

    @property
    def known(self) -> bool:
        """True where alpha is a mask, not a constant."""
        return self.policy != "none"

    def cut(
        self, rgba: Float[Tensor, "4 h w"], name: str, file: Path | None, where: str
    ) -> Float[Tensor, "4 h w"]:
        """Return a picture with its alpha. Raises ``UserError`` that names it."""
        if self.policy == "alpha":
            return rgba
        if self.policy == "files":
            assert file is not None  # mask_rule found one for each
            return _with_mask(rgba, read_mask(file, where), where, file)
        if self.policy == "none":
            return _without_alpha(rgba)
        cut = cut_opaque if self.padded else remove_plain_background
        return cut(over(rgba), TOLERANCE, f"{where}: {name}").rgba


PictureFiles = Sequence[tuple[str, Path, Path | None]]
"""Name, picture and mask of each view."""


def mask_rule(files: PictureFiles, policy: MaskPolicy, where: str) -> tuple[MaskRule, list[str]]:
    """Return how pictures are to be cut out, and what is assumed with that, after small readings of them.

    Raises ``UserError`` where the policy asks for what is not there.
    """
    if policy == "none":
        return MaskRule("none"), ["masks ignored: every pixel counts as object"]
    if policy in ("auto", "alpha"):
        opaque = _opaque_count(files, where)
        if opaque is not None:
            note = f"masks are the pictures' alpha ({opaque} of {len(files)} have none)"
            return MaskRule("alpha"), [note if opaque else "masks are the pictures' alpha"]
        if policy == "alpha":
            raise UserError(f"{where}: no picture has transparency; expected RGBA, or another `masks` policy")
    if policy == "files" or (policy == "auto" and any(mask is not None for _, _, mask in files)):
        _refuse_missing([name for name, _, mask in files if mask is None], len(files), where)
        _refuse_absent([mask for _, _, mask in files if mask is not None and not mask.is_file()], where)
        return MaskRule("files"), ["masks are the files beside the pictures"]
    try:
        return _background_rule(files, where if policy == "background" else ""), [PLAIN]
    except UserError as error:
        if policy == "background":
            raise
        return MaskRule("none"), [UNKNOWN.format(str(error).split(": ")[0])]


def _opaque_count(files: PictureFiles, where: str) -> int | None:
    """Return how many pictures have no channel of alpha; None where it is opaque in all that have one."""
    candidates = [path for _, path, _ in files if picture_header(path, where).alpha]
    clear = any(has_alpha(_preview(path, where)) for path in candidates)
    return len(files) - len(candidates) if clear else None


def _background_rule(files: PictureFiles, where: str) -> MaskRule:
    """Return the rule for plain backgrounds. Raises ``UserError`` with the name of a picture that has none."""
    blame = f"{where}: " if where else ""
    bars = set()
    for name, path, _ in files:
        preview = over(_preview(path, where))
        bars.add(find_padding(preview.permute(1, 2, 0).numpy()))
        # Only bars that all views have are padding, as an object may reach two borders.
        cut = remove_plain_background if None in bars or len(bars) > 1 else cut_opaque
        cut(preview, TOLERANCE, f"{blame}{name}")
    return MaskRule("background", padded=len(bars) == 1 and None not in bars)


def _preview(path: Path, where: str) -> Float[Tensor, "4 h w"]:
    return read_picture(path, where, longest=PREVIEW).rgba


def _refuse_missing(missing: Sequence[str], total: int, where: str) -> None:
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {total} pictures have no mask ({missing[0]}); expected a mask for each, "
            "or `masks: none`"
        )


def _refuse_absent(files: Sequence[Path], where: str) -> None:
    """Raise ``UserError`` for masks that were named and are not there."""
    if files:
        raise UserError(
            f"{where}: {files[0]}: no such file; expected a mask{nearby(files[0])}, or `masks: none`"
            + (f" ({len(files) - 1} more are missing)" if len(files) > 1 else "")
        )


# ------------------------------------------------------------------------------------------------------------ helpers


def _has_alpha(pictures: Pictures) -> bool:
    return any(has_alpha(picture) for picture in pictures)


def _without_alpha(picture: Float[Tensor, "4 h w"]) -> Float[Tensor, "4 h w"]:
    return torch.cat([picture[:3], torch.ones_like(picture[3:])])


def _cut_backgrounds(pictures: Pictures, names: Sequence[str]) -> Pictures:
    """Remove plain backgrounds. Only bars that all views have are padding, as an object may reach two borders."""
    opaque = [over(picture) for picture in pictures]
    bars = {find_padding(picture.permute(1, 2, 0).numpy()) for picture in opaque}
    cut = remove_plain_background if None in bars or len(bars) > 1 else cut_opaque
    return [cut(picture, TOLERANCE, name).rgba for picture, name in zip(opaque, names)]


def _masks_from_files(
    pictures: Pictures, names: Sequence[str], files: Sequence[Path | None], where: str
) -> Pictures:
    _refuse_missing([name for name, file in zip(names, files) if file is None], len(names), where)
    return [
        _with_mask(picture, read_mask(file, where), where, file)
        for picture, file in zip(pictures, files)
        if file is not None
    ]


def read_mask(path: Path, where: str) -> Float[Tensor, "h w"]:
    """Return a mask file: its alpha if it has one, else its brightness (white is object)."""
    rgba = read_values(path, where)
    return rgba[3] if has_alpha(rgba) else rgba[:3].mean(0)


def _with_mask(
    picture: Float[Tensor, "4 h w"], mask: Float[Tensor, "H W"], where: str, file: Path
) -> Float[Tensor, "4 h w"]:
    height, width = picture.shape[-2:]
    if not same_shape((mask.shape[1], mask.shape[0]), (width, height)):
        raise UserError(
            f"{where}: {file}: is {mask.shape[1]} x {mask.shape[0]} pixels; expected the shape of its picture, "
            f"{width} x {height}"
        )
    gray = torch.cat([torch.ones_like(mask)[None].expand(3, -1, -1), mask[None]])
    return torch.cat([picture[:3], resize_rgba(gray, height, width)[3:]])
