"""Protocols: which samples, at which size, rate and seed, measured how. Files in ``configs/eval``."""
