"""Metrics on uint8 frames and on joints; every function says what it averages over."""
