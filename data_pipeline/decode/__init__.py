"""Videos as they come: headers, frames at their exact times, ticks of a constant rate, single frames; damage refused by name."""

from data_pipeline.decode.frames import Frame, frames, images
from data_pipeline.decode.header import Probe, probe
from data_pipeline.decode.ticks import nearest_frames, ticks

__all__ = ["Frame", "Probe", "frames", "images", "nearest_frames", "probe", "ticks"]
