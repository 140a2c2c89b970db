"""Honest comparison: metrics, training-free baselines, the cross-identity protocol and its report."""
