"""How quality is measured, and what a clip must have to be kept."""

from __future__ import annotations

from dataclasses import dataclass, fields

from imanim.config import opt


@dataclass
class QualityConfig:
    """How the pictures are measured. Another setting gives other numbers: the thresholds hold for these."""

    text: str = opt("dbnet", "what finds text: dbnet (fetched, CPU, onnxruntime), none, or package.module:factory")
    check_text_every_sec: float = opt(1.0, "text is looked for at the first tick of a shot and then this often")
    text_side_px: int = opt(640, "longer side of the picture in which text is looked for")
    side_px: int = opt(320, "longer side of the gray picture on which motion of camera and picture is measured")
    person_height_px: int = opt(192, "height to which the person is resampled before sharpness is measured")
    min_background: float = opt(0.1, "part of the frame without people that it takes to measure the camera")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        found = []
        if self.text not in ("dbnet", "none") and ":" not in self.text:
            found.append(f"text: `{self.text}` is unknown; use dbnet, none or package.module:factory")
        if not self.check_text_every_sec > 0:
            found.append(f"check_text_every_sec: {self.check_text_every_sec}; give more than 0")
        least = {"text_side_px": 64, "side_px": 64, "person_height_px": 32}
        found += [f"{key}: {getattr(self, key)}; give {low} or more" for key, low in least.items()
                  if getattr(self, key) < low]  # fmt: skip
        if not 0 < self.min_background <= 1:
            found.append(f"min_background: {self.min_background}; give more than 0, at most 1")
        return found


@dataclass
class QualityRules:
    """Thresholds; null or 0 switches a rule off. A number that could not be measured breaks no rule."""

    min_motion: float | None = opt(
        0.005, "mean speed of the joints, in heights of the person a second; jitter alone gives 0.004 to 0.008"
    )
    max_motion: float | None = opt(3.0, "and at most: faster is mostly a lost track")
    min_pose_motion: float | None = opt(None, "the same with the person's way through the frame taken out")
    max_camera_motion: float | None = opt(0.25, "mean speed of the background, in diagonals of the frame a second")
    min_sharpness: float | None = opt(0.32, "detail of the person's edges at the measuring height; about 0.15 to 1")
    max_text: float | None = opt(0.01, "part of the frame under text, at the frame that has most")
    max_static: float | None = opt(0.8, "part of the steps from frame to frame that change nothing")
    min_person_px: float | None = opt(96.0, "height of the visible person in pixels of the file")
    min_face_px: float | None = opt(12.0, "height of the face box in pixels of the file, where a face shows")
    min_face_share: float | None = opt(None, "part of the frames that show a face")
    min_hands: float | None = opt(None, "mean certainty of the hands, where they are expected")
    min_source_side_px: float | None = opt(240.0, "shorter side of the file's picture in pixels")
    min_rate_fps: float | None = opt(None, "frames a second of the file")
    min_brightness: float | None = opt(0.06, "brightness of the person, 0 to 1, at the darkest tenth of the frames")

    def problems(self) -> list[str]:
        """What is wrong with these values."""
        parts = ("max_text", "max_static", "min_face_share", "min_hands", "min_brightness")
        found = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not 0 <= value < float("inf"):
                found.append(f"{field.name}: {value}; give 0 (off) or more")
            elif field.name in parts and value > 1:
                found.append(f"{field.name}: {value}; give 0 (off) to 1")
        if self.min_motion and self.max_motion and self.min_motion >= self.max_motion:
            found.append(
                f"min_motion: {self.min_motion} is not below max_motion {self.max_motion}; no clip could be kept"
            )
        return found
