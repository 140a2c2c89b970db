"""Warp kernels: normals, projection, z-buffer, soft shadow and shading, all with a frame axis N and deterministic.

The depth buffer holds (depth in micrometres) << 32 | triangle, so an integer minimum settles visibility in any order of
execution; normals are gathered a vertex at a time, never summed atomically.
"""

# mypy: ignore-errors
# ruff: noqa: SIM102, SIM109, UP018
# Kernels are Python in form only: Warp compiles their annotations as its own types and knows no `in`.

from __future__ import annotations

import warp as wp

EMPTY = wp.constant(wp.int64(9223372036854775807))
SHIFT = wp.constant(wp.int64(4294967296))
MICRO = wp.constant(1.0e6)

# part labels (imanim.data.sample.PARTS) and the extra palette rows (outfit.PALETTE)
SKIN, LIPS, BROW, SCLERA, IRIS, HAIR, SHIRT, PANTS, SKIRT, SHOES, TEETH, TONGUE = (wp.constant(i) for i in range(1, 13))
FLOOR, WALL, HAT, PUPIL = (wp.constant(i) for i in range(13, 17))
G_BODY, G_EYE_L, G_EYE_R, G_LONG, G_SKIRT, G_GARMENT, G_TEETH, G_TONGUE, G_BUN, G_TAIL, G_BRIM = (
    wp.constant(i) for i in range(11)
)


@wp.struct
class Look:
    """Camera, light and the outfit's numbers; the same for all frames of a launch."""

    camera: wp.mat44
    turn: wp.mat33  # camera to world
    eye: wp.vec3
    focal: float  # pixels of the supersampled image
    cx: float
    cy: float
    light: wp.vec3
    light_x: wp.vec3
    light_y: wp.vec3
    light_half: float
    shadow_size: int
    ambient: float
    key: float
    shadow: float
    tint: wp.vec3
    background: int
    seed: int
    waist: float
    shoe: float
    hem: float
    skirt_hem: float
    brow: float
    beard: float
    hairline: float
    hat: int  # 0 none, 1 cap, 2 beanie
    shirt_pattern: int
    pants_pattern: int
    frequency: float


@wp.kernel
def face_normals(v: wp.array2d(dtype=wp.vec3), tri: wp.array2d(dtype=int), out: wp.array2d(dtype=wp.vec3)):
    n, t = wp.tid()
    a = v[n, tri[t, 0]]
    out[n, t] = wp.cross(v[n, tri[t, 1]] - a, v[n, tri[t, 2]] - a)


@wp.kernel
def offset_vertices(
    v: wp.array2d(dtype=wp.vec3),
    faces: wp.array2d(dtype=wp.vec3),
    first: wp.array(dtype=int),
    incident: wp.array(dtype=int),
    off: wp.array(dtype=float),
    centres: wp.array(dtype=wp.vec3),
    look: Look,
    normals: wp.array2d(dtype=wp.vec3),
    moved: wp.array2d(dtype=wp.vec3),
    screen: wp.array2d(dtype=wp.vec3),
    lit: wp.array2d(dtype=wp.vec3),
):
    """Vertex normal, the vertex pushed out along it, and its place on the screen and in the light's view."""
    n, i = wp.tid()
    a = first[i]
    b = first[i + 1]
    if a == b:
        return
    s = wp.vec3(0.0, 0.0, 0.0)
    for k in range(a, b):
        s = s + faces[n, incident[k]]
    s = wp.normalize(s)
    p = v[n, i] + s * off[i]
    normals[n, i] = s
    moved[n, i] = p
    q = wp.transform_point(look.camera, p)
    inverse = 1.0 / wp.max(q[2], 0.05)
    screen[n, i] = wp.vec3(look.focal * q[0] * inverse + look.cx, look.focal * q[1] * inverse + look.cy, inverse)
    d = p - centres[n]
    scale = 0.5 * float(look.shadow_size) / look.light_half
    lit[n, i] = wp.vec3(
        (wp.dot(d, look.light_x) + look.light_half) * scale,
        (wp.dot(d, look.light_y) + look.light_half) * scale,
        1.0 / (10.0 - wp.dot(d, look.light)),
    )


@wp.func
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.kernel
def rasterise(
    screen: wp.array2d(dtype=wp.vec3),
    tri: wp.array2d(dtype=int),
    tested: wp.array(dtype=int),
    field: wp.array(dtype=float),
    buffer: wp.array3d(dtype=wp.int64),
):
    n, t = wp.tid()
    ia = tri[t, 0]
    ib = tri[t, 1]
    ic = tri[t, 2]
    a = screen[n, ia]
    b = screen[n, ib]
    c = screen[n, ic]
    if wp.max(a[2], wp.max(b[2], c[2])) > 19.0:
        return  # a corner lies at or behind the lens
    height = buffer.shape[1]
    width = buffer.shape[2]
    x0 = wp.max(0, int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])) - 0.5)))
    x1 = wp.min(width - 1, int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])) - 0.5)))
    y0 = wp.max(0, int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])) - 0.5)))
    y1 = wp.min(height - 1, int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])) - 0.5)))
    if x1 < x0 or y1 < y0:
        return
    area = edge(a, b, c[0], c[1])
    if wp.abs(area) < 1.0e-9:
        return
    inverse = 1.0 / area
    for y in range(y0, y1 + 1):
        for x in range(x0, x1 + 1):
            px = float(x) + 0.5
            py = float(y) + 0.5
            w0 = edge(b, c, px, py) * inverse
            w1 = edge(c, a, px, py) * inverse
            w2 = 1.0 - w0 - w1
            if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
                depth = 1.0 / (w0 * a[2] + w1 * b[2] + w2 * c[2])
                code = wp.int64(MICRO * depth) * SHIFT + wp.int64(t)
                if code < buffer[n, y, x]:
                    if tested[t] == 0 or w0 * field[ia] + w1 * field[ib] + w2 * field[ic] > 0.0:
                        wp.atomic_min(buffer, n, y, x, code)


@wp.func
def hash2(i: int, j: int, seed: int):
    return wp.randf(wp.rand_init(i * 7919 + seed, j))


@wp.func
def noise(x: float, y: float, seed: int):
    i = int(wp.floor(x))
    j = int(wp.floor(y))
    u = x - float(i)
    v = y - float(j)
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    low = hash2(i, j, seed) * (1.0 - u) + hash2(i + 1, j, seed) * u
    high = hash2(i, j + 1, seed) * (1.0 - u) + hash2(i + 1, j + 1, seed) * u
    return low * (1.0 - v) + high * v


@wp.func
def light_share(
    n: int, look: Look, shadows: wp.array3d(dtype=wp.int64), centres: wp.array(dtype=wp.vec3), p: wp.vec3, bias: float
):
    """Soft shadow: the share of a 4x4 neighbourhood of the shadow map that sees the light, edges weighted smoothly."""
    d = p - centres[n]
    scale = 0.5 * float(look.shadow_size) / look.light_half
    sx = (wp.dot(d, look.light_x) + look.light_half) * scale - 0.5
    sy = (wp.dot(d, look.light_y) + look.light_half) * scale - 0.5
    if sx < 2.0 or sy < 2.0 or sx > float(look.shadow_size - 4) or sy > float(look.shadow_size - 4):
        return 1.0
    ix = int(wp.floor(sx))
    iy = int(wp.floor(sy))
    fx = sx - float(ix)
    fy = sy - float(iy)
    limit = wp.int64((10.0 - wp.dot(d, look.light) - bias) * MICRO) * SHIFT
    seen = float(0.0)
    for j in range(-1, 3):
        wy = float(1.0)
        if j == -1:
            wy = 1.0 - fy
        if j == 2:
            wy = fy
        for i in range(-1, 3):
            if shadows[n, iy + j, ix + i] > limit:
                wx = float(1.0)
                if i == -1:
                    wx = 1.0 - fx
                if i == 2:
                    wx = fx
                seen += wx * wy
    return 1.0 - look.shadow * (1.0 - seen / 9.0)


@wp.func
def part_of(look: Look, g: int, z: float, arm: float, lips: float, brow: float, hair: float, iris: float):
    """Part label of a drawn fragment."""
    if g == G_BODY:
        if hair > 0.0:
            return HAIR
        if lips > 0.5:
            return LIPS
        if brow > 0.85 - 0.5 * look.brow:
            return BROW
        return SKIN
    if g == G_GARMENT:
        if arm > -0.5 or z > look.waist:
            return SHIRT
        if z < look.shoe:
            return SHOES
        return PANTS
    if g == G_SKIRT:
        return SKIRT
    if g == G_EYE_L or g == G_EYE_R:
        if iris > 0.0:
            return IRIS
        return SCLERA
    if g == G_TEETH:
        return TEETH
    if g == G_TONGUE:
        return TONGUE
    return HAIR


@wp.func
def shirt_accent(look: Look, x: float, y: float, z: float, arm: float, margin: float):
    """Share of the accent colour on a shirt; ``margin`` is the way to the collar or cuff in metres."""
    k = look.shirt_pattern
    f = look.frequency
    side = wp.abs(x)
    hit = int(0)
    if k == 1 and wp.sin(z * f) < 0.0:
        hit = 1
    if k == 2 and wp.sin(x * f * 1.6) > 0.55:
        hit = 1
    if k == 3 and wp.sin(x * f) * wp.sin(z * f) < 0.0:
        hit = 1
    if k == 4 and y < 0.0 and x * x + (z - 0.30) * (z - 0.30) < 0.0042:
        hit = 1
    if k == 5:
        u = x * f / 3.1416
        v = z * f / 3.1416
        u = u - wp.floor(u) - 0.5
        v = v - wp.floor(v) - 0.5
        if u * u + v * v < 0.09:
            hit = 1
    if k == 6 and arm < -0.5 and y < 0.02 and side < 0.030 + 0.16 * wp.max(z - 0.22, 0.0):
        hit = 1
    if k == 7 and arm > -0.5:
        hit = 1
    if k == 8 and arm < -0.5 and z > 0.22 and z < 0.32:
        hit = 1
    if k == 9 and (z > 0.33 or arm > -0.5):
        hit = 1
    if k == 10 and arm < -0.5 and wp.abs(x * 0.9 + z - 0.25) < 0.045:
        hit = 1
    if k == 11:
        if margin < 0.03 or (arm < -0.5 and z < look.waist + 0.03):
            hit = 1
    return float(hit)


@wp.func
def trouser_accent(look: Look, x: float, y: float, z: float, bottom: float):
    k = look.pants_pattern
    f = look.frequency
    hit = int(0)
    if k == 1 and wp.sin(x * f * 1.6) > 0.55:
        hit = 1
    if k == 2 and wp.sin(x * f) * wp.sin(z * f) < 0.0:
        hit = 1
    if k == 3 and wp.abs(y + 0.01) < 0.020 and wp.abs(x) > 0.13:
        hit = 1
    if k == 4 and z < bottom + 0.045:
        hit = 1
    return float(hit)


@wp.func
def surroundings(look: Look, pal: wp.array2d(dtype=wp.vec3), d: wp.vec3):
    """Colour of the wall far away, a function of direction, so it turns with the camera."""
    u = wp.atan2(d[0], d[1])
    v = d[2] / wp.sqrt(d[0] * d[0] + d[1] * d[1] + 1.0e-9)
    a = pal[WALL, 0]
    b = pal[WALL, 1]
    w = wp.clamp(0.5 - 1.6 * v, 0.0, 1.0)
    k = look.background
    s = look.seed
    if k == 1:
        w = 0.65 * noise(u * 6.0 + 31.0, v * 8.0 + 7.0, s) + 0.35 * noise(u * 17.0 + 3.0, v * 21.0, s + 5)
    if k == 2:
        w = hash2(int(wp.floor(u * 9.0)), int(wp.floor(v * 9.0)), s)
    if k == 4:
        w = 0.25 * w
        t = u * 5.0 - wp.floor(u * 5.0)
        if t < 0.5:
            w = w + 0.6
    if k == 5:
        w = 0.2 * w
        iu = int(wp.floor(u * 3.5))
        t = u * 3.5 - wp.floor(u * 3.5) - 0.5
        if (
            wp.abs(t) < 0.12 + 0.22 * hash2(iu, 3, s)
            and v > -0.02 + 0.05 * hash2(iu, 4, s)
            and v < 0.14 + 0.1 * hash2(iu, 5, s)
        ):
            w = 0.5 + 0.5 * hash2(iu, 6, s)
    return a * (1.0 - w) + b * w


@wp.kernel
def shade(
    buffer: wp.array3d(dtype=wp.int64),
    shadows: wp.array3d(dtype=wp.int64),
    v: wp.array2d(dtype=wp.vec3),
    normals: wp.array2d(dtype=wp.vec3),
    tri: wp.array2d(dtype=int),
    groups: wp.array(dtype=int),
    at: wp.array2d(dtype=float),
    field: wp.array(dtype=float),
    pal: wp.array2d(dtype=wp.vec3),
    centres: wp.array(dtype=wp.vec3),
    look: Look,
    colour: wp.array3d(dtype=wp.vec3),
    parts: wp.array3d(dtype=wp.uint8),
):
    n, y, x = wp.tid()
    d = look.turn * wp.vec3((float(x) + 0.5 - look.cx) / look.focal, (float(y) + 0.5 - look.cy) / look.focal, 1.0)
    code = buffer[n, y, x]
    if code == EMPTY:
        c = surroundings(look, pal, d)
        if d[2] < -1.0e-4:
            p = look.eye - d * (look.eye[2] / d[2])
            fade = wp.clamp((3.2 - wp.length(wp.vec3(p[0], p[1], 0.0))) / 1.4, 0.0, 1.0)
            if fade > 0.0:
                f = pal[FLOOR, 0]
                if look.background == 3:
                    checks = int(wp.floor(p[0] * 2.0)) + int(wp.floor(p[1] * 2.0))
                    if checks % 2 != 0:
                        f = pal[FLOOR, 1]
                c = (c * (1.0 - fade) + f * fade) * light_share(n, look, shadows, centres, p, 0.0)
        colour[n, y, x] = c
        parts[n, y, x] = wp.uint8(0)
        return
    t = int(code & wp.int64(4294967295))
    p = look.eye + d * (float(code / SHIFT) / MICRO)
    ia = tri[t, 0]
    ib = tri[t, 1]
    ic = tri[t, 2]
    e1 = v[n, ib] - v[n, ia]
    e2 = v[n, ic] - v[n, ia]
    q = p - v[n, ia]
    d11 = wp.dot(e1, e1)
    d12 = wp.dot(e1, e2)
    d22 = wp.dot(e2, e2)
    inverse = 1.0 / wp.max(d11 * d22 - d12 * d12, 1.0e-14)
    w1 = wp.clamp((d22 * wp.dot(q, e1) - d12 * wp.dot(q, e2)) * inverse, 0.0, 1.0)
    w2 = wp.clamp((d11 * wp.dot(q, e2) - d12 * wp.dot(q, e1)) * inverse, 0.0, 1.0)
    w0 = 1.0 - w1 - w2
    X = w0 * at[ia, 0] + w1 * at[ib, 0] + w2 * at[ic, 0]
    Y = w0 * at[ia, 1] + w1 * at[ib, 1] + w2 * at[ic, 1]
    Z = w0 * at[ia, 2] + w1 * at[ib, 2] + w2 * at[ic, 2]
    arm = w0 * at[ia, 3] + w1 * at[ib, 3] + w2 * at[ic, 3]
    g = groups[t]
    lips = float(0.0)
    brow = float(0.0)
    hair = float(-1.0)
    iris = float(0.0)
    beard = float(-1.0)
    if g == G_BODY and Z > 0.45:
        lips = w0 * at[ia, 4] + w1 * at[ib, 4] + w2 * at[ic, 4]
        brow = w0 * at[ia, 5] + w1 * at[ib, 5] + w2 * at[ic, 5]
        hair = w0 * at[ia, 6] + w1 * at[ib, 6] + w2 * at[ic, 6] + look.hairline * wp.clamp(-Y / 0.05, 0.0, 1.0)
        hair = hair + 0.007 * (noise(X * 150.0, (Z + Y) * 70.0, 29) - 0.5)  # no ruler-straight hairline
        beard = w0 * at[ia, 8] + w1 * at[ib, 8] + w2 * at[ic, 8]
    if g == G_EYE_L or g == G_EYE_R:
        iris = w0 * at[ia, 7] + w1 * at[ib, 7] + w2 * at[ic, 7]
    m = part_of(look, g, Z, arm, lips, brow, hair, iris)
    c = pal[m, 0]
    if m == HAIR:
        c = c * (0.85 + 0.3 * noise(X * 60.0, Z * 25.0 + Y * 25.0, 13))
        if g == G_BRIM or (g == G_BODY and look.hat == 2) or (g == G_BODY and look.hat == 1 and Z > 0.672 - 0.25 * Y):
            c = pal[HAT, 0]
            if look.hat == 2 and hair < 0.022:
                c = pal[HAT, 1]
    if m == SKIN and beard > 0.0 and look.beard > 0.0:
        share = wp.clamp(beard / 0.008, 0.0, 1.0) * look.beard
        c = c * (1.0 - share) + pal[SKIN, 1] * share
        if look.beard > 0.7 and share > 0.5:
            m = HAIR
    if m == IRIS and iris > 0.105:
        c = pal[PUPIL, 0]
    accent = float(0.0)
    if m == SHIRT:
        accent = shirt_accent(look, X, Y, Z, arm, w0 * field[ia] + w1 * field[ib] + w2 * field[ic])
    if m == PANTS:
        accent = trouser_accent(look, X, Y, Z, look.hem)
    if m == SKIRT:
        accent = trouser_accent(look, X, Y, Z, look.skirt_hem)
    if m == SHOES and Z < -0.845:
        accent = float(1.0)
    c = c * (1.0 - accent) + pal[m, 1] * accent
    normal = wp.normalize(normals[n, ia] * w0 + normals[n, ib] * w1 + normals[n, ic] * w2)
    if wp.dot(normal, d) > 0.0:
        normal = -normal
    diffuse = wp.dot(normal, look.light)
    if diffuse > 0.0:
        diffuse = diffuse * light_share(n, look, shadows, centres, p + normal * 0.01, 0.02)
    else:
        diffuse = 0.0
    rim = 1.0 - wp.abs(wp.dot(normal, wp.normalize(d)))
    strength = look.ambient * (0.75 + 0.25 * normal[2]) + look.key * diffuse
    colour[n, y, x] = c * (strength * (1.0 - 0.25 * rim * rim * rim))
    parts[n, y, x] = wp.uint8(m)


@wp.kernel
def resolve(
    colour: wp.array3d(dtype=wp.vec3),
    parts: wp.array3d(dtype=wp.uint8),
    buffer: wp.array3d(dtype=wp.int64),
    look: Look,
    samples: int,
    rgb: wp.array4d(dtype=wp.uint8),
    labels: wp.array3d(dtype=wp.uint8),
    depth: wp.array3d(dtype=float),
):
    """Averages samples x samples pixels; label and depth are those of the middle sample."""
    n, y, x = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for j in range(samples):
        for i in range(samples):
            c = wp.cw_mul(colour[n, y * samples + j, x * samples + i], look.tint)
            total = total + wp.vec3(wp.clamp(c[0], 0.0, 1.0), wp.clamp(c[1], 0.0, 1.0), wp.clamp(c[2], 0.0, 1.0))
    total = total * (255.0 / float(samples * samples))
    for k in range(3):
        rgb[n, y, x, k] = wp.uint8(total[k] + 0.5)
    middle_y = y * samples + samples / 2
    middle_x = x * samples + samples / 2
    labels[n, y, x] = parts[n, middle_y, middle_x]
    code = buffer[n, middle_y, middle_x]
    if code == EMPTY:
        depth[n, y, x] = wp.inf
    else:
        depth[n, y, x] = float(code / SHIFT) / MICRO
