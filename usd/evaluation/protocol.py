"""The protocol: which surfaces and pictures of two sources are compared, and how. docs/evaluation.md says why.

Geometry: both meshes are moved by the motion that puts the *reference's* bounding box about the origin with longest
side 1; then the prediction is aligned as asked; then it is measured. Pictures: views of the same cameras, over white,
one value a view, then their mean. All counts and seeds stand here.
"""

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from usd.core.errors import UserError
from usd.core.places import command
from usd.core.types import Mesh
from usd.data.pictures import over
from usd.data.syncdreamer import target_cameras
from usd.data.view_set import ViewSet
from usd.evaluation import surface
from usd.evaluation.align import Alignment, Similarity, align_mesh, apply, unit_box
from usd.evaluation.lpips import Lpips, find_lpips
from usd.evaluation.metrics import mask_iou, psnr, ssim
from usd.evaluation.sources import EvaluationSource, with_surface
from usd.math.camera import camera_differences
from usd.mesh_io.colored_mesh import ColoredMesh
from usd.mesh_io.repair import drop_strays, face_outward, is_stray
from usd.toybox import REFERENCE_DISTANCE, REFERENCE_FOV_DEG
from usd.toybox.cameras import held_out_cameras

SAMPLES = 100_000
SEED = 0
VISIBLE_SIZE = 256
PICTURES, PICTURE_SIZE = 16, 256
SAME_CAMERA = 0.01
IN_VIEW = (0.2, REFERENCE_DISTANCE * math.sin(math.radians(REFERENCE_FOV_DEG) / 2))
"""Cameras around the origin see meshes at least so large that lie within this radius; others are cut off."""
OTHER_UNITS = 20.0
"""Sizes that differ by this factor are said."""
BEST_PSNR = 100.0
"""A picture that is exactly right counts as this many dB, so that means stay finite."""


Scalar = float | str


@dataclass(frozen=True)
class EvaluationReport:
    """All figures by name (infinite where a surface is empty), one row a view, and what was assumed."""

    figures: dict[str, float]
    views: tuple[dict[str, Scalar], ...] = ()
    protocol: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        """Return plain containers for JSON: numbers that are not finite become null."""
        return {
            "figures": {key: _finite(value) for key, value in self.figures.items()},
            "protocol": self.protocol,
            "notes": list(self.notes),
            "per_view": [{key: _finite(value) for key, value in row.items()} for row in self.views],
        }


def _finite(value: Scalar) -> Scalar | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    prediction: EvaluationSource,
    reference: EvaluationSource,
    align: Alignment = "none",
    skip: tuple[int, ...] = (),
) -> EvaluationReport:
    """Compare everything that the two sources allow. ``skip`` are indices of reference views left out.

    Raises UserError when they have neither surfaces nor views in common, or when the reference is empty.
    """
    prediction, reference = _without_stray_faces(prediction, reference)
    geometry = EvaluationReport({})
    motion: Similarity | None = None
    if prediction.mesh is not None and reference.mesh is not None:
        geometry, motion = compare_surfaces(prediction.mesh, reference.mesh, align)
    # The aligned surface is seen too, else pictures would measure the misalignment that geometry took away.
    viewed = prediction
    if motion is not None and align != "none" and prediction.views is None and prediction.surface is not None:
        moved = prediction.surface.move(motion(prediction.surface.vertices))
        viewed = with_surface(prediction, moved)
    viewed, truth, framed = in_view(viewed, reference)
    pictures = compare_pictures(viewed, truth, skip)
    if not geometry.figures and not pictures.figures:
        raise UserError(
            f"{prediction.name}, {reference.name}: nothing to compare: {_lacks(prediction)}, {_lacks(reference)}; "
            "expected two surfaces, or pictures on both sides"
        )
    names = {"prediction": prediction.name, "reference": reference.name}
    notes = [
        *(f"prediction: {note}" for note in prediction.notes),
        *(f"reference: {note}" for note in reference.notes),
        *geometry.notes,
        *framed,
        *pictures.notes,
    ]
    return EvaluationReport(
        {**pictures.figures, **geometry.figures},
        pictures.views,
        {**names, "align": align, **geometry.protocol, **pictures.protocol},
        tuple(notes),
    )


def _without_stray_faces(
    prediction: EvaluationSource, reference: EvaluationSource
) -> tuple[EvaluationSource, EvaluationSource]:
    """Return the reference without faces far from all others, which would decide the unit.

    The prediction keeps its own.
    """
    if reference.surface is not None:
        kept = drop_strays(reference.surface)
        # The same object comes back where no face is far: nothing to rebuild, nothing to remark.
        if kept is not reference.surface:
            notes = (*reference.notes, kept.notes[-1])
            changed = with_surface(reference, kept) if reference.see is not None else reference
            reference = replace(changed, mesh=kept.mesh, surface=kept, notes=notes)
    # Faces that a method left far away are its own errors: without them it would look better than it is.
    if prediction.surface is not None and (far := int(is_stray(prediction.surface).sum())):
        note = f"{far} of its faces lie far from the rest; they are measured with it"
        prediction = replace(prediction, notes=(*prediction.notes, note))
    return prediction, reference


def in_view(
    prediction: EvaluationSource, reference: EvaluationSource
) -> tuple[EvaluationSource, EvaluationSource, tuple[str, ...]]:
    """Return both meshes where cameras around the origin look, moved by one motion if the reference is elsewhere."""
    ours, theirs = prediction.surface, reference.surface
    meshes = prediction.views is None and reference.views is None
    if ours is None or theirs is None or not meshes:
        return prediction, reference, ()
    low, high = theirs.vertices.amin(0), theirs.vertices.amax(0)
    extent, reach = float((high - low).max()), float(theirs.vertices.norm(dim=1).max())
    if reach <= IN_VIEW[1] and extent >= IN_VIEW[0]:
        return prediction, reference, ()
    # Half the radius the cameras see, as shipped toys have it.
    middle = (low + high) / 2
    scale = 0.5 / float((theirs.vertices - middle).norm(dim=1).max())
    # One motion for both: how the prediction lies to the reference is part of what is measured.
    moved = [
        with_surface(source, mesh.move(scale * (mesh.vertices - middle)))
        for source, mesh in ((prediction, ours), (reference, theirs))
    ]
    note = "pictures: both meshes are moved by what centers the reference's box and makes its radius 0.5"
    return moved[0], moved[1], (note,)


def to_float32(mesh: Mesh) -> Mesh:
    """Return the mesh in float32, for which it should be centered already."""
    return replace(mesh, vertices=mesh.vertices.float())


def oriented_solid(mesh: Mesh) -> tuple[Mesh, tuple[str, ...]]:
    """Return the mesh with faces that agree about directions, each once, and notes on what is unusual about it."""
    if mesh.empty:
        return mesh, surface.condition(mesh)
    oriented = face_outward(ColoredMesh.of(mesh))
    return oriented.mesh, (*oriented.notes, *surface.condition(oriented.mesh))


def unit_mismatch(prediction: Mesh) -> tuple[str, ...]:
    """Return a note where the prediction, in the reference's unit box, is far larger or smaller than the box."""
    if prediction.empty:
        return ()
    size = 1 / unit_box(prediction).scale
    if 1 / OTHER_UNITS < size < OTHER_UNITS:
        return ()
    form = ".3g" if size < 1 else ".0f"
    return (
        f"prediction: it is {size:{form}} times the reference's size: other units? Figures compare it as it is;"
        " --align icp+scale compares the shapes",
    )


def _lacks(source: EvaluationSource) -> str:
    what = [
        name for name, part in (("a surface", source.mesh), ("views", source.views or source.see)) if part
    ]
    return f"{source.name} has {' and '.join(what) or 'nothing'}"


# -------------------------------------------------------------------------------------------------------- geometry


def compare_surfaces(
    prediction: Mesh, reference: Mesh, align: Alignment
) -> tuple[EvaluationReport, Similarity]:
    """Return the figures of geometry, and the motion that the prediction went through, in the reference's own units."""
    if reference.empty:
        raise UserError("reference: its mesh is empty; expected a surface to measure against")
    box = unit_box(reference)
    # Moved in double precision first, so that float32 measures a mesh far from the origin as well as one at it.
    truth, predicted = to_float32(apply(box, reference)), to_float32(apply(box, prediction))
    sizes = unit_mismatch(predicted)
    motion = align_mesh(predicted, truth, align, SEED)
    predicted = apply(motion, predicted)
    # The motion out of the unit box again, so that the whole of it is said in the reference's own units.
    back = Similarity(box.rotation, -box.translation / box.scale, 1 / box.scale)
    # Inside is where windings add up, so faces must agree about directions and not cancel each other.
    solids = [oriented_solid(mesh) for mesh in (predicted, truth)]
    notes = [
        f"{who}: {note}" for who, (_, found) in zip(("prediction", "reference"), solids) for note in found
    ]
    figures = {
        **by_area(predicted, truth),
        **by_visible_surface(predicted, truth),
        "volume_iou": surface.volume_iou(*(surface.occupancy(solid) for solid, _ in solids)),
        "chamfer_floor": chamfer_floor(truth),
    }
    return EvaluationReport(figures, (), _geometry_protocol(motion), (*sizes, *notes)), back.after(
        motion
    ).after(box)


def by_area(prediction: Mesh, reference: Mesh) -> dict[str, float]:
    """Return Chamfer, F-scores and normal consistency of points drawn uniformly by area."""
    # Two seeds: equal draws on equal meshes would coincide and hide the sampling floor.
    mine, theirs = (
        surface.area_samples(prediction, SAMPLES, SEED),
        surface.area_samples(reference, SAMPLES, SEED + 1),
    )
    forth, back = surface.nearest(mine, theirs), surface.nearest(theirs, mine)
    scores = {f"f_score_{t:.2f}": surface.f_score(forth, back, t) for t in surface.THRESHOLDS}
    consistency = surface.normal_consistency(forth, back)
    return {"chamfer_area": surface.chamfer(forth, back), **scores, "normal_consistency": consistency}


def by_visible_surface(prediction: Mesh, reference: Mesh) -> dict[str, float]:
    """Return the Chamfer distance of what sixteen cameras see, thinned to one point a cube."""
    cameras = target_cameras(VISIBLE_SIZE)
    mine, theirs = (surface.visible_points(mesh, cameras) for mesh in (prediction, reference))
    return {"chamfer_visible": surface.chamfer(surface.nearest(mine, theirs), surface.nearest(theirs, mine))}


def chamfer_floor(reference: Mesh) -> float:
    """Return the area Chamfer of the reference with itself.

    Below which no prediction gets: two draws never coincide.
    """
    one, other = (surface.area_samples(reference, SAMPLES, SEED + i) for i in (1, 2))
    return surface.chamfer(surface.nearest(one, other), surface.nearest(other, one))


def _geometry_protocol(motion: Similarity) -> dict[str, object]:
    return {
        "unit": "the reference's longest side",
        "area_samples": SAMPLES,
        "area_seeds": [SEED, SEED + 1],
        "visible_surface": f"16 views of {VISIBLE_SIZE} px, one point per {surface.VOXEL:g} cube",
        "volume_lattice": f"{surface.LATTICE}^3 over [-1, 1]",
        "alignment_turn_deg": motion.angle_deg,
        "alignment_scale": motion.scale,
        "alignment_shift": motion.translation.tolist(),
    }


# -------------------------------------------------------------------------------------------------------- pictures


def compare_pictures(
    prediction: EvaluationSource, reference: EvaluationSource, skip: tuple[int, ...]
) -> EvaluationReport:
    """Return the figures of pictures at the same cameras; none where the sources share none."""
    pair, notes = common_views(prediction, reference)
    if pair is None:
        return EvaluationReport({}, notes=tuple(notes))
    mine, theirs = pair
    kept = [i for i in range(len(theirs)) if i not in skip]
    if not kept:
        raise UserError(
            f"{reference.name}: all {len(theirs)} views are skipped; expected at least one to compare"
        )
    lpips, why = find_lpips()
    colored = prediction.colored and reference.colored
    rows = [score_views(mine.select([i]), theirs.select([i]), colored, lpips) for i in kept]
    names = [name for name in ("psnr", "ssim", "lpips", "mask_iou") if any(name in row for row in rows)]
    # The mean of values a view, as papers report; PSNR of the mean error would weigh bad views more.
    means = {name: math.fsum(float(row[name]) for row in rows) / len(rows) for name in names}
    protocol = {
        "views": len(kept),
        "views_skipped": sorted(set(skip) & set(range(len(theirs)))),
        "picture_size": list(mine.rgba.shape[-2:]),
        "pictures": "over white, per view, then mean",
    }
    return EvaluationReport(means, tuple(rows), protocol, (*notes, *((why,) if colored else ())))


def score_views(mine: ViewSet, theirs: ViewSet, colored: bool, lpips: Lpips | None) -> dict[str, Scalar]:
    """Return one view's figures. The truth takes the prediction's size."""
    # The other way round a small prediction would be blurred by the resampling and blamed for it.
    theirs = theirs.resized(mine.rgba.shape[-2], mine.rgba.shape[-1])
    a, b = over(mine.rgba), over(theirs.rgba)
    row: dict[str, Scalar] = {"view": theirs.names[0]}
    if colored:
        row |= {"psnr": min(_first(psnr(a, b)), BEST_PSNR), "ssim": _first(ssim(a, b))}
        row |= {} if lpips is None else {"lpips": _first(lpips(a, b))}
    if mine.masked and theirs.masked:
        row["mask_iou"] = _first(mask_iou(mine.rgba[:, 3:], theirs.rgba[:, 3:]))
    return row


def _first(value: Tensor) -> float:
    return float(value.reshape(-1)[0])


def common_views(
    prediction: EvaluationSource, reference: EvaluationSource
) -> tuple[tuple[ViewSet, ViewSet] | None, list[str]]:
    """Return views of both by the same cameras, the reference's first where both have some, and what was left out."""
    if prediction.views is not None and reference.views is not None:
        return matching(prediction.views, reference.views, f"{prediction.name}, {reference.name}")
    if reference.views is not None and prediction.see is not None:
        return (prediction.see(reference.views.cameras), reference.views), []
    if prediction.views is not None and reference.see is not None:
        return (prediction.views, reference.see(prediction.views.cameras)), []
    if prediction.see is not None and reference.see is not None:
        cameras = held_out_cameras(PICTURES, PICTURE_SIZE)
        return (prediction.see(cameras), reference.see(cameras)), [
            f"pictures from {PICTURES} cameras around both"
        ]
    return None, ["no pictures on one side: picture figures are left out"]


def matching(mine: ViewSet, theirs: ViewSet, where: str) -> tuple[tuple[ViewSet, ViewSet], list[str]]:
    """Return the views of ``theirs`` that some view of ``mine`` shares its camera with.

    Raises UserError where none does.
    """
    pairs = [(i, j) for j in range(len(theirs)) if (i := same_camera(mine, theirs, j)) is not None]
    if not pairs:
        raise UserError(
            f"{where}: no two views were taken by the same camera; expected the reference's cameras: render them with "
            f"{command('test')} data.eval_transforms=<reference>/transforms.json"
        )
    lost = len(theirs) - len(pairs)
    notes = [f"{lost} of {len(theirs)} reference views have no counterpart and are left out"] if lost else []
    return (mine.select([i for i, _ in pairs]), theirs.select([j for _, j in pairs])), notes


def same_camera(mine: ViewSet, theirs: ViewSet, index: int) -> int | None:
    """Return the view of ``mine`` by the camera of view ``index`` of ``theirs`` (the nearest, within SAME_CAMERA)."""
    one, other = theirs.cameras[index : index + 1], mine.cameras
    if (one.span_y is None) != (other.span_y is None):
        return None
    apart = camera_differences(other, one)
    best = int(apart.argmin())
    return best if float(apart[best]) <= SAME_CAMERA else None


def figures_table(report: EvaluationReport) -> str:
    """Return the figures as two columns of text."""
    width = max(len(name) for name in report.figures)
    return "\n".join(
        f"{name:<{width}}  {_figure_text(name, value)}" for name, value in report.figures.items()
    )


def _figure_text(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "infinite"
    if name == "psnr":
        return f"{value:.2f} dB"
    return f"{value:.4f}" if name.startswith("chamfer") else f"{value:.3f}"
