"""Turns raw video, or nothing at all (Doubles), into shards of samples."""
