"""Face networks: where the face of a known head is, its five points, and how good a look at it a frame gives."""
