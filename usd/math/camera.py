"""Cameras: one type, and everything that can be derived from it.

Conventions, written down once. The world is right-handed with +z up and the object at the origin. Cameras are
OpenGL cameras: +x right, +y up, looking along -z. A spherical position is (elevation, azimuth, distance):
elevation is the angle above the ground plane, azimuth turns from +x towards +y. Angles are radians; names that
end in ``_deg`` are degrees. ``B`` counts cameras, ``H W`` pixels; pixel (0, 0) is the top left one.

Places in a picture are (x right, y down) in pixels from the picture's top left corner, so the first pixel's center is
at (0.5, 0.5) and the picture's middle at (width / 2, height / 2). A pinhole shows the camera point (X, Y, -Z) at

    x = cx + fx X / Z        y = cy - fy Y / Z
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Spherical:
    """Positions around the origin. ``elevation`` and ``azimuth`` in radians, ``distance`` in world units, each (B,)."""

    elevation: Tensor
    azimuth: Tensor
    distance: Tensor

    def xyz(self) -> Float[Tensor, "B 3"]:
        """Return Cartesian positions."""
        flat = self.distance * torch.cos(self.elevation)
        return torch.stack(
            [
                flat * torch.cos(self.azimuth),
                flat * torch.sin(self.azimuth),
                self.distance * torch.sin(self.elevation),
            ],
            -1,
        )


@dataclass(frozen=True)
class Window:
    """Some pixels of a picture: (top, left) is the first, and every ``step``-th one follows, (height, width) in all.

    With steps of 1 it is a part of the picture; with larger ones a coarser grid over it.
    """

    top: int
    left: int
    height: int
    width: int
    step_y: int = 1
    step_x: int = 1


@dataclass(frozen=True)
class Cameras:
    """A batch of cameras of one picture size: pinholes, or orthographic where ``span_y`` is given.

    ``c2w`` (B, 4, 4) maps camera to world coordinates; ``fov_y`` (B,) is the vertical field of view in radians.
    ``span_y`` (B,) is the height of the picture in world units of orthographic cameras, whose ``fov_y`` is 0.
    ``light_positions`` (B, 3) are the world positions of each view's lamp where data draws lamps, for lit materials.
    ``intrinsics`` (B, 4) are fx, fy, cx, cy in pixels (see the module's head) of pinholes that real cameras are;
    without them pixels are square and the principal point is the picture's middle. ``pinhole_cameras`` makes such
    cameras, with 2 atan(height / 2 fy) as their ``fov_y``. An orthographic camera has none: it can stand elsewhere.
    """

    c2w: Float[Tensor, "B 4 4"]
    fov_y: Float[Tensor, "B"]
    height: int
    width: int
    span_y: Float[Tensor, "B"] | None = None
    light_positions: Float[Tensor, "B 3"] | None = None
    intrinsics: Float[Tensor, "B 4"] | None = None

    def __len__(self) -> int:
        return self.c2w.shape[0]

    def __getitem__(self, index: "slice | Tensor | Sequence[int]") -> "Cameras":
        return self._each(lambda tensor: tensor[index])

    @property
    def device(self) -> torch.device:
        """Device of the matrices."""
        return self.c2w.device

    def to(self, device: "torch.device | str") -> "Cameras":
        """Return the cameras on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Cameras":
        """Return the cameras with every tensor changed alike."""
        optional = self.span_y, self.light_positions, self.intrinsics
        span, lamps, lenses = (None if each is None else change(each) for each in optional)
        c2w, fov_y = change(self.c2w), change(self.fov_y)
        return replace(self, c2w=c2w, fov_y=fov_y, span_y=span, light_positions=lamps, intrinsics=lenses)

    def resize(self, height: int, width: int) -> "Cameras":
        """Return the same views at another picture size."""
        lenses = self.intrinsics
        if lenses is not None and (height, width) != (self.height, self.width):
            lenses = lenses * lenses.new_tensor(2 * [width / self.width, height / self.height])
        return replace(self, height=height, width=width, intrinsics=lenses)

    def turned(self, angle: Float[Tensor, "B"]) -> "Cameras":
        """Return each camera carried about the vertical by its angle (radians, from +x towards +y)."""
        rotation = torch.zeros_like(self.c2w)
        rotation[:, :3, :3], rotation[:, 3, 3] = rotation_about_z(angle), 1
        lamps = self.light_positions
        if lamps is not None:
            lamps = (rotation[:, :3, :3] @ lamps[:, :, None])[..., 0]
        return replace(self, c2w=rotation @ self.c2w, light_positions=lamps)

    @property
    def position(self) -> Float[Tensor, "B 3"]:
        """Places in world coordinates."""
        return self.c2w[:, :3, 3]

    @property
    def focal_px(self) -> Float[Tensor, "B"]:
        """Focal length in rows of pixels, fy; infinite for orthographic cameras."""
        return (
            0.5 * self.height / torch.tan(0.5 * self.fov_y)
            if self.intrinsics is None
            else self.intrinsics[:, 1]
        )

    @property
    def focals(self) -> Float[Tensor, "B 2"]:
        """Focal lengths fx, fy in pixels; infinite for orthographic cameras."""
        return self.focal_px[:, None].expand(-1, 2) if self.intrinsics is None else self.intrinsics[:, :2]

    @property
    def principal_point(self) -> Float[Tensor, "B 2"]:
        """Points (B, 2) where the optical axes meet the pictures: cx, cy in pixels from the top left corner."""
        if self.intrinsics is not None:
            return self.intrinsics[:, 2:]
        return self.c2w.new_tensor([0.5 * self.width, 0.5 * self.height]).expand(len(self), 2)

    @property
    def spherical(self) -> Spherical:
        """Places around the origin, as angles (radians) and distance."""
        x, y, z = self.position.unbind(-1)
        distance = self.position.norm(dim=-1)
        elevation = torch.asin((z / distance.clamp_min(1e-12)).clamp(-1, 1))
        return Spherical(elevation, torch.atan2(y, x), distance)

    def relative_to(self, other: "Cameras") -> Spherical:
        """Return how much further up, round and away these cameras stand than ``other`` (one camera, or as many).

        The azimuth difference is wrapped to (-pi, pi].
        """
        mine, theirs = self.spherical, other.spherical
        turn = mine.azimuth - theirs.azimuth
        return Spherical(
            mine.elevation - theirs.elevation,
            torch.atan2(torch.sin(turn), torch.cos(turn)),
            mine.distance - theirs.distance,
        )

    def rays(self) -> tuple[Float[Tensor, "B H W 3"], Float[Tensor, "B H W 3"]]:
        """Return origins and unit directions through all pixel centers, in world coordinates."""
        return self.crop_rays(0, 0, self.height, self.width)

    def crop_rays(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[Float[Tensor, "B h w 3"], Float[Tensor, "B h w 3"]]:
        """Return the rays of the window whose first pixel is (top, left); equal to ``rays()`` cut to that window."""
        return self.window_rays(Window(top, left, height, width))

    def window_rays(self, at: Window) -> tuple[Float[Tensor, "B h w 3"], Float[Tensor, "B h w 3"]]:
        """Return origins and unit directions through the centers of a window's pixels."""
        device, dtype = self.c2w.device, self.c2w.dtype
        bottom, right = at.top + at.height * at.step_y, at.left + at.width * at.step_x
        y = torch.arange(at.top, bottom, at.step_y, device=device, dtype=dtype) + 0.5
        x = torch.arange(at.left, right, at.step_x, device=device, dtype=dtype) + 0.5
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        if self.span_y is not None:
            return self._parallel_rays(grid_x - 0.5 * self.width, grid_y - 0.5 * self.height, self.span_y)
        across, down = self._plane(grid_x, grid_y, self._shared_lenses())
        local = torch.stack([across, -down, -torch.ones_like(across)], -1)
        world = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], local)
        directions = torch.nn.functional.normalize(world, dim=-1)
        origins = self.position[:, None, None, :].expand_as(directions)
        return origins, directions

    def rays_at(
        self, camera: Int[Tensor, "R"], x: Int[Tensor, "R"], y: Int[Tensor, "R"]
    ) -> tuple[Float[Tensor, "R 3"], Float[Tensor, "R 3"]]:
        """Return rays through the centers of single pixels, column ``x`` and row ``y`` of the given cameras."""
        c2w = self.c2w[camera]
        if self.span_y is None:
            lenses = tuple(each[camera] for each in self._lenses((-1,)))
            right, down = self._plane(x.to(c2w) + 0.5, y.to(c2w) + 0.5, lenses)
            local = torch.stack([right, -down, -torch.ones_like(right)], -1)
            world = torch.einsum("rij,rj->ri", c2w[:, :3, :3], local)
            return c2w[:, :3, 3], torch.nn.functional.normalize(world, dim=-1)
        right, up = x.to(c2w) + 0.5 - 0.5 * self.width, 0.5 * self.height - 0.5 - y.to(c2w)
        plane = torch.stack([right, up], -1) * (self.span_y[camera] / self.height)[:, None]
        return c2w[:, :3, 3] + torch.einsum("rij,rj->ri", c2w[:, :3, :2], plane), -c2w[:, :3, 2]

    def _lenses(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return fx, fy, cx, cy, one of each a camera, in a shape that broadcasts with pixels."""
        numbers = torch.cat([self.focals, self.principal_point], 1)
        fx, fy, cx, cy = (each.view(shape) for each in numbers.unbind(1))
        return fx, fy, cx, cy

    def _shared_lenses(self) -> "tuple[Tensor | float, ...]":
        """Return fx, fy, cx, cy for whole pictures; the middle as plain numbers, which cost a GPU nothing."""
        if self.intrinsics is not None:
            return self._lenses((-1, 1, 1))
        focal = self.focal_px.view(-1, 1, 1)
        return focal, focal, 0.5 * self.width, 0.5 * self.height

    @staticmethod
    def _plane(x: Tensor, y: Tensor, lenses: "tuple[Tensor | float, ...]") -> tuple[Tensor, Tensor]:
        """Return where rays through places of pictures meet the plane at depth 1, right and down."""
        fx, fy, cx, cy = lenses
        return (x - cx) / fx, (y - cy) / fy

    def _parallel_rays(
        self, x: Float[Tensor, "h w"], y: Float[Tensor, "h w"], span_y: Float[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B h w 3"], Float[Tensor, "B h w 3"]]:
        """Return rays of orthographic cameras through picture positions (pixels from the middle, y down)."""
        plane = torch.stack([x, -y], -1)[None] * (span_y / self.height)[:, None, None, None]
        offset = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :2], plane)
        origins = self.position[:, None, None, :] + offset
        return origins, -self.c2w[:, None, None, :3, 2].expand_as(origins)

    def world_to_camera(self) -> Float[Tensor, "B 4 4"]:
        """Return the inverse of ``c2w``."""
        rotation = self.c2w[:, :3, :3].transpose(1, 2)
        w2c = torch.zeros_like(self.c2w)
        w2c[:, :3, :3] = rotation
        w2c[:, :3, 3] = -torch.einsum("bij,bj->bi", rotation, self.position)
        w2c[:, 3, 3] = 1
        return w2c

    def projection(self, near: float = 0.1, far: float = 100.0) -> Float[Tensor, "B 4 4"]:
        """Return OpenGL projection matrices (clip space, y up)."""
        out = torch.zeros_like(self.c2w)
        if self.span_y is not None:
            out[:, 0, 0], out[:, 1, 1] = 2 / self.span_y * self.height / self.width, 2 / self.span_y
            out[:, 2, 2], out[:, 2, 3] = -2 / (far - near), -(far + near) / (far - near)
            out[:, 3, 3] = 1
            return out
        if self.intrinsics is None:
            cot = 1.0 / torch.tan(0.5 * self.fov_y)
            out[:, 0, 0], out[:, 1, 1] = cot * self.height / self.width, cot
        else:
            # Clip coordinates count from the middle in half pictures, y up, and are divided by the depth, -z.
            fx, fy, cx, cy = self.intrinsics.unbind(1)
            out[:, 0, 0], out[:, 1, 1] = 2 * fx / self.width, 2 * fy / self.height
            out[:, 0, 2], out[:, 1, 2] = 1 - 2 * cx / self.width, 2 * cy / self.height - 1
        out[:, 2, 2] = -(far + near) / (far - near)
        out[:, 2, 3] = -2 * far * near / (far - near)
        out[:, 3, 2] = -1
        return out

    def mvp(self, near: float = 0.1, far: float = 100.0) -> Float[Tensor, "B 4 4"]:
        """Return world to clip coordinates."""
        return self.projection(near, far) @ self.world_to_camera()

    def project(self, points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "B N 2"], Float[Tensor, "B N"]]:
        """Return pixel coordinates (x right, y down; pixel centers at halves) and depths along the view axis."""
        w2c = self.world_to_camera()
        local = torch.einsum("bij,nj->bni", w2c[:, :3, :3], points) + w2c[:, None, :3, 3]
        depth = -local[..., 2]
        if self.span_y is None:
            scale = self.focals[:, None] / depth[..., None]
        else:
            scale = (self.height / self.span_y)[:, None, None]
        return local[..., :2] * local.new_tensor([1, -1]) * scale + self.principal_point[:, None], depth


def rotation_about_z(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Return rotations about the vertical by angles in radians, from +x towards +y."""
    c, s, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))


def orthographic_cameras(
    c2w: Float[Tensor, "B 4 4"], span_y: "Tensor | float | int", height: int, width: int
) -> Cameras:
    """Return cameras with parallel rays whose pictures are ``span_y`` world units high."""
    span = torch.as_tensor(span_y, device=c2w.device, dtype=c2w.dtype).expand(len(c2w))
    return Cameras(c2w, torch.zeros_like(span), height, width, span)


def pinhole_cameras(
    c2w: Float[Tensor, "B 4 4"], intrinsics: Float[Tensor, "B 4"], height: int, width: int
) -> Cameras:
    """Return pinholes with fx, fy, cx, cy in pixels of pictures of this size.

    Where all of them have square pixels and look through the middle, they are those that ``fov_y`` alone describes.
    """
    fx, fy, cx, cy = intrinsics.unbind(1)
    off = torch.stack([(fx - fy) / fy, (2 * cx - width) / width, (2 * cy - height) / height])
    plain = bool((off.abs() < 1e-6).all())
    fov_y = 2 * torch.atan(0.5 * height / fy)
    return Cameras(c2w, fov_y, height, width, intrinsics=None if plain else intrinsics)


def join_cameras(parts: "Sequence[Cameras]") -> Cameras:
    """Join cameras of the same picture size and kind. Raises ValueError where they differ."""
    kinds = {(part.height, part.width, part.span_y is None) for part in parts}
    if len(kinds) != 1:
        raise ValueError(f"cameras differ in picture size or kind: {sorted(kinds)}")
    spans = [part.span_y for part in parts if part.span_y is not None]
    lamps = [part.light_positions for part in parts if part.light_positions is not None]
    lenses = [torch.cat([part.focals, part.principal_point], 1) for part in parts]
    own = any(part.intrinsics is not None for part in parts)
    return replace(
        parts[0],
        c2w=torch.cat([part.c2w for part in parts]),
        fov_y=torch.cat([part.fov_y for part in parts]),
        span_y=torch.cat(spans) if spans else None,
        light_positions=torch.cat(lamps) if len(lamps) == len(parts) else None,
        intrinsics=torch.cat(lenses) if own else None,
    )


def camera_differences(cameras: Cameras, one: Cameras) -> Float[Tensor, "B"]:
    """Return how far cameras are from ``one`` of their kind, in a number.

    The largest difference of a matrix entry, plus those of the field of view, of the span, and of the principal point
    and the width of a pixel as shares of the picture's height.
    """
    apart = (cameras.c2w - one.c2w).abs().amax(dim=(1, 2)) + (cameras.fov_y - one.fov_y).abs()
    if cameras.span_y is not None and one.span_y is not None:
        apart = apart + (cameras.span_y - one.span_y).abs()
    if cameras.intrinsics is not None or one.intrinsics is not None:
        here, there = (_picture_shape(each) for each in (cameras, one))
        apart = apart + (here - there).abs().amax(1)
    return apart


def _picture_shape(cameras: Cameras) -> Float[Tensor, "B 4"]:
    """Return the principal point in heights of the picture, its aspect ratio, and fx / fy."""
    at = cameras.principal_point / cameras.height
    aspect = torch.full_like(at[:, :1], cameras.width / cameras.height)
    return torch.cat([at, aspect, cameras.focals[:, :1] / cameras.focals[:, 1:]], 1)


def look_at(
    position: Float[Tensor, "B 3"], target: Float[Tensor, "B 3"], up: "Float[Tensor, 'B 3'] | None" = None
) -> Float[Tensor, "B 4 4"]:
    """Return camera-to-world matrices that stand at ``position`` and look at ``target``; ``up`` defaults to +z.

    Looking straight along ``up`` is allowed: +y then serves as the upward direction.
    """
    if up is None:
        up = torch.tensor([0.0, 0.0, 1.0], device=position.device, dtype=position.dtype).expand_as(position)
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    spare = torch.tensor([0.0, 1.0, 0.0], device=position.device, dtype=position.dtype).expand_as(position)
    parallel = torch.linalg.cross(forward, up).norm(dim=-1, keepdim=True) < 1e-6
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, torch.where(parallel, spare, up)), dim=-1
    )
    upward = torch.linalg.cross(right, forward)
    c2w = torch.zeros(len(position), 4, 4, device=position.device, dtype=position.dtype)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2], c2w[:, :3, 3] = right, upward, -forward, position
    c2w[:, 3, 3] = 1
    return c2w


def orbit_cameras(position: Spherical, fov_y: "Tensor | float", height: int, width: int) -> Cameras:
    """Place cameras at spherical positions, all looking at the origin with +z up. ``fov_y`` in radians."""
    xyz = position.xyz()
    fov = torch.as_tensor(fov_y, device=xyz.device, dtype=xyz.dtype).expand(len(xyz))
    return Cameras(look_at(xyz, torch.zeros_like(xyz)), fov, height, width)


def orbit_cameras_deg(
    elevation_deg: "Sequence[float] | float",
    azimuth_deg: "Sequence[float] | float",
    distance: float,
    fov_y_deg: float,
    size: int,
) -> Cameras:
    """Return square cameras around the origin from degrees, the way YAML writes them; scalars broadcast."""
    elevation = torch.atleast_1d(torch.as_tensor(elevation_deg, dtype=torch.float32)).deg2rad()
    azimuth = torch.atleast_1d(torch.as_tensor(azimuth_deg, dtype=torch.float32)).deg2rad()
    elevation, azimuth = torch.broadcast_tensors(elevation, azimuth)
    return orbit_cameras(
        Spherical(elevation, azimuth, torch.full_like(elevation, distance)),
        math.radians(fov_y_deg),
        size,
        size,
    )


def sphere_angles(
    count: int, lowest: "float | int" = -math.pi / 2, highest: "float | int" = math.pi / 2
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Return elevations and azimuths (radians) of ``count`` points spread evenly over a band of the sphere, top first.

    A Fibonacci spiral: equal areas, and a golden angle from each point to the next.
    """
    index = torch.arange(count, dtype=torch.float64)
    low, high = math.sin(lowest), math.sin(highest)
    elevation = torch.asin((high - (high - low) * (2 * index + 1) / (2 * count)).clamp(-1, 1))
    azimuth = (index * (math.pi * (3 - math.sqrt(5)))).remainder(2 * math.pi)
    return elevation.float(), azimuth.float()
