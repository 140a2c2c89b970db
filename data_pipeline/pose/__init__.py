"""Pose networks: where people are in a frame, and their joints."""
