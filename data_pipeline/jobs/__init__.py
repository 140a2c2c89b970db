"""Many videos: planned, run in processes of their own, merged into shards, verified, published."""
