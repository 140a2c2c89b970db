"""Who is who: a vector for a face, near for one person and far for two."""
