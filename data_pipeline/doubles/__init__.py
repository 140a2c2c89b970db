"""Doubles: synthetic humans, always clothed, that perform the same motion with different bodies."""
