"""Renders a dressed body: a z-buffer rasteriser with soft shadow in Warp, on the CPU or a GPU, same bytes each time."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import warp as wp

from data_pipeline.doubles.asset import Asset, FloatArray, load_asset
from data_pipeline.doubles.bodies import Body
from data_pipeline.doubles.camera import Camera
from data_pipeline.doubles.outfit import BODY, PALETTE, build_outfit, palette, vertices_of
from data_pipeline.doubles.wardrobe import BACKGROUNDS, PATTERNS, TROUSER_PATTERNS, Identity, Scene
from imanim.data.sample import JOINTS
from imanim.errors import InputError


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Warp's native part writes to file descriptor 2 when it finds no GPU driver, which is no news on a CPU."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


wp.config.log_level = wp.LOG_ERROR
wp.config.enable_backward = False  # no gradients through the renderer: kernels compile in half the time
with _quiet_stderr():
    wp.init()

from data_pipeline.doubles import shading  # noqa: E402 - kernels read the configuration above

REFERENCE_HEIGHT_M = 1.7
JOINT_TOLERANCE_M = {
    "nose": 0.05, "neck": 0.12, "shoulder": 0.13, "elbow": 0.09, "wrist": 0.08, "hip": 0.20, "knee": 0.12,
    "ankle": 0.10, "eye": 0.05, "ear": 0.06, "toe": 0.09,
}  # fmt: skip
"""How far under the surface a joint may lie and still count as seen, for a body of 1.7 m."""


@dataclass(frozen=True)
class Rendered:
    """Frames [N,...] (``frames``) or one (``frame``, without N).

    Attributes:
        rgb: uint8 [N,H,W,3]. parts: uint8 [N,H,W], labels of imanim.data.sample.PARTS (hats and beards are hair).
        depth: float32 [N,H,W] along the optical axis in metres, infinite where there is no person.
    """

    rgb: np.ndarray
    parts: np.ndarray
    depth: np.ndarray


class Renderer:
    """Draws one person at one resolution. Reuses its buffers, so keep it for all frames of a clip."""

    def __init__(
        self,
        body: Body,
        identity: Identity,
        width: int,
        height: int,
        *,
        supersample: int = 2,
        device: str = "cpu",
        shadow_resolution: int = 160,
    ):
        """``device``: "cpu" or "cuda:0"; ``supersample``: samples a pixel and axis; sizes in pixels.

        Raises:
            InputError: a size is not positive, or the identity is for another phenotype than the body.
        """
        if min(width, height, supersample, shadow_resolution) < 1:
            raise InputError(f"renderer: size {width}x{height}, supersample {supersample} must be positive")
        if dict(identity.phenotype) != dict(body.phenotype):
            raise InputError("renderer: the identity's phenotype is not the body's; build Body(identity.phenotype)")
        asset = load_asset()
        self.width, self.height, self.device = width, height, device
        self._samples, self._shadow_resolution, self._body_height_m = supersample, shadow_resolution, body.height_m
        # a raised arm or leg reaches this far from the middle of the body
        self._light_half_m = 0.85 * body.height_m
        self._identity, self._palette = identity, palette(identity)
        outfit = build_outfit(asset, identity)
        first, incident = _incidence(outfit.triangles, len(asset.vertex_mean))
        offsets = outfit.offsets * (body.height_m / REFERENCE_HEIGHT_M)
        with wp.ScopedDevice(device):
            self._triangles: wp.array = wp.array(outfit.triangles, dtype=int)
            self._groups: wp.array = wp.array(outfit.groups, dtype=int)
            self._tested: wp.array = wp.array(outfit.tested, dtype=int)
            self._field: wp.array = wp.array(outfit.field, dtype=float)
            self._offsets: wp.array = wp.array(offsets, dtype=float)
            self._first: wp.array = wp.array(first, dtype=int)
            self._incident: wp.array = wp.array(incident, dtype=int)
            self._attributes: wp.array = wp.array(asset.attributes, dtype=float)
        self._buffers: dict[str, wp.array] = {}

    def frame(self, vertices: FloatArray, scene: Scene, camera: Camera) -> Rendered:
        """Renders one frame: vertices [V,3] as ``Body.pose`` gives them."""
        out = self.frames(vertices[None], scene, camera)
        return Rendered(out.rgb[0], out.parts[0], out.depth[0])

    def frames(self, vertices: FloatArray, scene: Scene, camera: Camera) -> Rendered:
        """Renders N frames in one go: vertices [N,V,3]."""
        count, size = len(vertices), len(self._attributes)
        if vertices.ndim != 3 or vertices.shape[1:] != (size, 3):
            raise InputError(f"renderer: vertices {vertices.shape} are not [N,{size},3]; pass Posed.vertices")
        look = self._look(scene, camera)
        centres = self._shadow_centres(vertices, look)
        with wp.ScopedDevice(self.device):
            b = self._allocate(count)
            b["vertices"].assign(np.ascontiguousarray(vertices, np.float32))
            b["centres"].assign(centres)
            b["colours"].assign(self._colours(scene))
            self._launch(count, look, b)
            return Rendered(b["rgb"].numpy().copy(), b["labels"].numpy().copy(), b["depth"].numpy().copy())

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """What the last render saw at each sample [N,H*s,W*s]: corners' vertices int [...,3] (-1 = nobody), group [...].

        For checks of what may be visible; s is the supersampling.
        """
        if not self._buffers:
            raise InputError("renderer: nothing has been rendered yet; call frames() first")
        codes = self._buffers["buffer"].numpy()
        nobody = codes == int(shading.EMPTY)
        triangle = np.where(nobody, 0, codes & 0xFFFFFFFF)
        corners = np.where(nobody[..., None], -1, self._triangles.numpy()[triangle])
        return corners, np.where(nobody, -1, self._groups.numpy()[triangle])

    def _launch(self, count: int, look: shading.Look, b: dict[str, wp.array]) -> None:
        triangles, size = len(self._triangles), len(self._attributes)
        height, width = b["buffer"].shape[1:]
        b["buffer"].fill_(shading.EMPTY)
        b["shadows"].fill_(shading.EMPTY)
        wp.launch(shading.face_normals, (count, triangles), [b["vertices"], self._triangles, b["faces"]])
        wp.launch(
            shading.offset_vertices,
            (count, size),
            [b["vertices"], b["faces"], self._first, self._incident, self._offsets, b["centres"], look],
            [b["normals"], b["moved"], b["screen"], b["lit"]],
        )
        for seen, buffer in (("screen", "buffer"), ("lit", "shadows")):
            inputs = [b[seen], self._triangles, self._tested, self._field]
            wp.launch(shading.rasterise, (count, triangles), inputs, [b[buffer]])
        wp.launch(
            shading.shade,
            (count, height, width),
            [b["buffer"], b["shadows"], b["moved"], b["normals"], self._triangles, self._groups, self._attributes,
             self._field, b["colours"], b["centres"], look],
            [b["colour"], b["parts"]],
        )  # fmt: skip
        wp.launch(
            shading.resolve,
            (count, self.height, self.width),
            [b["colour"], b["parts"], b["buffer"], look, self._samples],
            [b["rgb"], b["labels"], b["depth"]],
        )

    def _allocate(self, count: int) -> dict[str, wp.array]:
        """Buffers for ``count`` frames, kept until another count is asked for."""
        if not self._buffers or self._buffers["vertices"].shape[0] != count:
            size, triangles, s = len(self._attributes), len(self._triangles), self._shadow_resolution
            h, w = self.height * self._samples, self.width * self._samples
            vectors = {
                "vertices": size,
                "normals": size,
                "moved": size,
                "screen": size,
                "lit": size,
                "faces": triangles,
            }
            self._buffers = {name: wp.zeros((count, n), dtype=wp.vec3) for name, n in vectors.items()}
            self._buffers |= {
                "centres": wp.empty(count, dtype=wp.vec3),
                "colours": wp.empty((len(PALETTE), 2), dtype=wp.vec3),
                "buffer": wp.empty((count, h, w), dtype=wp.int64),
                "shadows": wp.empty((count, s, s), dtype=wp.int64),
                "colour": wp.empty((count, h, w), dtype=wp.vec3),
                "parts": wp.empty((count, h, w), dtype=wp.uint8),
                "rgb": wp.empty((count, self.height, self.width, 3), dtype=wp.uint8),
                "labels": wp.empty((count, self.height, self.width), dtype=wp.uint8),
                "depth": wp.empty((count, self.height, self.width), dtype=float),
            }
        return self._buffers

    def _shadow_centres(self, vertices: FloatArray, look: shading.Look) -> FloatArray:
        """Middle of each body [N,3], snapped to whole texels of the shadow map so that shadows do not shimmer."""
        some = vertices[:, ::16]  # every sixteenth vertex tells as well
        middle = (some.min(1) + some.max(1)) / 2
        axes = np.array([list(look.light_x), list(look.light_y), list(look.light)])
        local = middle @ axes.T
        texel = 2 * self._light_half_m / self._shadow_resolution
        local[:, :2] = np.round(local[:, :2] / texel) * texel
        return (local @ axes).astype(np.float32)

    def _colours(self, scene: Scene) -> FloatArray:
        table = self._palette.copy()
        table[PALETTE.index("floor")] = scene.floor, scene.floor_accent
        table[PALETTE.index("wall")] = scene.wall, scene.wall_accent
        return table

    def _look(self, scene: Scene, camera: Camera) -> shading.Look:
        s, identity = self._samples, self._identity
        look = shading.Look()
        matrix = camera.world_to_camera()
        look.camera = wp.mat44(matrix)
        look.turn = wp.mat33(np.ascontiguousarray(matrix[:3, :3].T))
        look.eye = wp.vec3(*camera.eye)
        look.focal = camera.focal * self.height * s
        look.cx, look.cy = self.width * s / 2, self.height * s / 2
        light = np.array(scene.light, np.float64) / np.linalg.norm(scene.light)
        across = np.cross((0.0, 0.0, 1.0), light)
        across /= np.linalg.norm(across)
        look.light = wp.vec3(*light)
        look.light_x, look.light_y = wp.vec3(*across), wp.vec3(*np.cross(light, across))
        look.light_half = self._light_half_m
        look.shadow_size = self._shadow_resolution
        look.ambient, look.key, look.shadow = scene.ambient, scene.key, scene.shadow
        look.tint, look.background, look.seed = wp.vec3(*scene.tint), BACKGROUNDS.index(scene.background), scene.seed
        look.waist, look.shoe, look.hem = identity.waist_z, identity.shoe_z, identity.hem_z
        look.skirt_hem = identity.skirt_hem_z if identity.skirt_hem_z is not None else 0.0
        look.brow, look.beard, look.hairline = identity.brow_weight, identity.beard, identity.hairline
        if identity.hair_style == "bald":
            look.hairline = -10.0
        look.hat = {"cap": 1, "beanie": 2}.get(identity.hair_style, 0)
        look.shirt_pattern = PATTERNS.index(identity.shirt_pattern)
        look.pants_pattern = TROUSER_PATTERNS.index(identity.pants_pattern)
        look.frequency = identity.pattern_frequency
        return look


def _incidence(triangles: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """For every vertex the triangles around it: first [V+1] into incident [3T]."""
    order = np.argsort(triangles.ravel(), kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(triangles.ravel(), minlength=vertices))])
    return first.astype(np.int32), (order // 3).astype(np.int32)


def joint_visibility(
    keypoints: FloatArray, camera: Camera, depth: FloatArray, body_height_m: float
) -> tuple[FloatArray, np.ndarray]:
    """Where joints are seen and whether anything hides them.

    Args:
        keypoints: [T,20,3] world points; depth: [T,H,W] of the same frames.
    Returns:
        float32 [T,20,3] image coordinates in [0,1] (true even when hidden) and visibility 0/1; a joint is visible when
        it lies in the frame and no surface is nearer than its tolerance under the skin.
    """
    frames, height, width = depth.shape
    uv, z = camera.project(keypoints, width, height)
    inside = ((uv >= 0) & (uv < 1)).all(-1)
    column = np.clip(np.nan_to_num(uv[..., 0]) * width, 0, width - 1).astype(int)
    row = np.clip(np.nan_to_num(uv[..., 1]) * height, 0, height - 1).astype(int)
    surface = depth[np.arange(frames)[:, None], row, column]
    tolerance = np.array([JOINT_TOLERANCE_M[j.split("_")[-1]] for j in JOINTS]) * body_height_m / REFERENCE_HEIGHT_M
    visible = inside & (surface >= z - tolerance)
    return np.concatenate([uv, visible[..., None]], -1).astype(np.float32), visible


def face_vertices(asset: Asset | None = None) -> np.ndarray:
    """Indices of the skin from chin to brow and ear to ear."""
    asset = asset or load_asset()
    skin = vertices_of(asset, BODY)
    y, z, hair = (asset.attribute(n)[skin] for n in ("y", "z", "hair"))
    return skin[(z > 0.535) & (y < -0.03) & (hair < 0.01)]


def face_box(vertices: FloatArray, camera: Camera, width: int, height: int) -> FloatArray:
    """Face boxes float32 [T,4] (x0,y0,x1,y1 in [0,1], clipped to the frame) from vertices [T,V,3].

    NaN where the face points more than about 100 degrees away from the camera or lies outside the frame.
    """
    asset = load_asset()
    face = vertices[:, face_vertices(asset)]
    uv, _ = camera.project(face, width, height)
    low, high = uv.min(1), uv.max(1)
    forward = face.mean(1) - vertices[:, _back_of_head(asset)].mean(1)
    to_camera = np.array(camera.eye, np.float32) - face.mean(1)
    cosine = (forward * to_camera).sum(-1) / (np.linalg.norm(forward, axis=-1) * np.linalg.norm(to_camera, axis=-1))
    boxes = np.clip(np.concatenate([low, high], -1), 0, 1).astype(np.float32)
    gone = (cosine < -0.17) | np.isnan(uv).any((1, 2)) | (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    boxes[gone] = np.nan
    return boxes


def _back_of_head(asset: Asset) -> Sequence[int] | np.ndarray:
    skin = vertices_of(asset, BODY)
    y, z = asset.attribute("y")[skin], asset.attribute("z")[skin]
    return skin[(z > 0.6) & (y > 0.05)]
