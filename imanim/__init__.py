"""imanim: character animation with an implicit motion representation (IM-Animation, arXiv 2602.07498)."""

__version__ = "0.1.0"
