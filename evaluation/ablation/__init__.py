"""Variants of the method, trained and measured under one budget (docs/ablation.md)."""
