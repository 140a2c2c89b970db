"""Why videos and clips are left out: what each code means, which setting changes it, and at which step it strikes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

READABLE, SHOTS, PERSON, CLIP = "readable", "shots", "person", "clip"
STEPS = (READABLE, SHOTS, PERSON, CLIP)
"""In the order in which a video meets them."""


@dataclass(frozen=True)
class Reason:
    """``step``: one of STEPS; ``text``: one line for people; ``setting``: what to change to get fewer of them, if anything."""

    step: str
    text: str
    setting: str = ""


REASONS: dict[str, Reason] = {
    "empty_file": Reason(READABLE, "the file has no bytes", "copy it again"),
    "not_a_video": Reason(READABLE, "no container that FFmpeg knows, or no video stream in it", "extensions"),
    "audio_only": Reason(READABLE, "sound without pictures, or only a cover picture", "extensions"),
    "unreadable": Reason(READABLE, "the system refused to read the file", "permissions; then run again"),
    "no_decoder": Reason(READABLE, "the codec has no decoder here", "re-encode it, e.g. to H.264"),
    "encrypted": Reason(READABLE, "the stream is encrypted"),
    "hdr": Reason(READABLE, "HDR transfer curve (PQ or HLG), which is not tone-mapped", "tone-map it to SDR first"),
    "bad_aspect": Reason(READABLE, "its header declares absurd pixels", "re-encode it"),
    "odd_rotation": Reason(READABLE, "to be shown turned by other than quarter turns", "re-encode it upright"),
    "no_keyframe": Reason(READABLE, "begins amid a group of pictures", "cut it at a keyframe"),
    "too_large": Reason(READABLE, "the declared frame size is larger than any real video's"),
    "corrupt": Reason(READABLE, "damaged: the decoder reported broken data", "copy or fetch it again"),
    "truncated": Reason(READABLE, "ends before the header says that it does", "copy or fetch it again"),
    "size_changes": Reason(READABLE, "the frame size changes on the way", "re-encode it to one size"),
    "bad_timestamps": Reason(READABLE, "timestamps are missing, run backwards or are absurd", "remux or re-encode it"),
    "too_few_frames": Reason(READABLE, "fewer than three frames"),
    "frame_rate": Reason(READABLE, "too slow for the clips' constant frame rate", "clip.fps"),
    "sidecar": Reason(READABLE, "the JSON file beside it cannot be used", "mend that file"),
    "duplicate": Reason(READABLE, "the same bytes as another file, which is used"),
    "out_of_memory": Reason(READABLE, "killed: its process took more memory than allowed", "limits.memory_gb"),
    "stalled": Reason(READABLE, "killed: no frame came for too long", "limits.stall_sec"),
    "out_of_time": Reason(READABLE, "killed: one video took longer than allowed", "limits.total_sec"),
    "crashed": Reason(READABLE, "its process died, most likely inside a decoder", "try it alone; then report it"),
    "internal_error": Reason(READABLE, "a defect of this program met by this file", "report it with the detail"),
    "too_short": Reason(SHOTS, "the video is shorter than a clip", "clip.frames, clip.fps"),
    "hard_cut": Reason(SHOTS, "between two cuts there is less than a clip", "clip.frames, shots"),
    "no_person": Reason(PERSON, "nobody was found", "pose.min_person_score"),
    "person_lost": Reason(CLIP, "the person is not followed through the whole clip", "framing.min_frames_with_person"),
    "multiple_people": Reason(CLIP, "somebody else is in the picture", "people.multiple=split"),
    "does_not_fit": Reason(CLIP, "no window of the clip's shape holds the person", "framing.max_padding"),
    "too_small": Reason(CLIP, "the window would have to be blown up", "framing.max_enlargement, clip.height"),
    "no_identity": Reason(CLIP, "no other frame shows the same person well", "pairing, framing.min_known_joints"),
    "over_max_per_video": Reason(CLIP, "more good clips than one video may give", "clip.max_per_video"),
    "no_clip": Reason(CLIP, "no stretch of it was proposed"),
    "static": Reason(CLIP, "a still picture", "rules.max_static"),
    "little_motion": Reason(CLIP, "the person hardly moves", "rules.min_motion, rules.min_pose_motion"),
    "too_much_motion": Reason(CLIP, "the joints move faster than a body can", "rules.max_motion"),
    "camera_motion": Reason(CLIP, "the background moves", "rules.max_camera_motion"),
    "face_hidden": Reason(CLIP, "the face shows in too few frames", "rules.min_face_share"),
    "blurred": Reason(CLIP, "the person is out of focus or smeared", "rules.min_sharpness"),
    "text": Reason(CLIP, "burned-in text or a large logo", "rules.max_text"),
    "person_small": Reason(CLIP, "the person has too few pixels in the source", "rules.min_person_px"),
    "face_small": Reason(CLIP, "the face has too few pixels in the source", "rules.min_face_px"),
    "hands_unsure": Reason(CLIP, "the hands are not seen with certainty", "rules.min_hands"),
    "dark": Reason(CLIP, "too dark", "rules.min_brightness"),
    "low_resolution": Reason(CLIP, "the source video is too small", "rules.min_source_side_px"),
    "low_frame_rate": Reason(CLIP, "the source video has too few frames a second", "rules.min_rate_fps"),
}  # fmt: skip


def step_of(reason: str, *, analysed: bool = True) -> str:
    """The step at which a reason strikes. An unknown one: the last step of what was analysed, else the first."""
    known = REASONS.get(reason)
    return known.step if known else CLIP if analysed else READABLE


def reason_of(left_out: Mapping[str, int]) -> str:
    """The one reason of a video without a clip: of the step that its best stretch reached, the most frequent one.

    So a video of many short shots and one long, blurred one is ``blurred``, not ``hard_cut``. ``no_clip`` when nothing is told.
    """
    told = {reason: count for reason, count in left_out.items() if count}
    if not told:
        return "no_clip"
    return min(told, key=lambda r: (-STEPS.index(step_of(r)), -told[r], r))


def fate(row: Mapping[str, Any]) -> str | None:
    """Why a video gave no clip; None when it gave some."""
    if row.get("clips", 0):
        return None
    return row.get("reason") or reason_of(row.get("left_out") or {})


def analysed(row: Mapping[str, Any]) -> bool:
    """Whether the video was looked at to its end."""
    return row.get("seconds") is not None


def in_words(counts: Mapping[str, int]) -> str:
    """``hard_cut 1, person_lost 2``."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()) if count)


def in_one_line(rows: Iterable[Mapping[str, Any]]) -> str:
    """Why videos gave no clip, for a terminal: ``corrupt 1, no_person 2``."""
    counts: dict[str, int] = {}
    for row in rows:
        reason = fate(row)
        if reason is not None:
            counts[reason] = counts.get(reason, 0) + 1
    return in_words(counts) or "every video gave clips"
