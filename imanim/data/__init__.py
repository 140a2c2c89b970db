"""The sample contract, shards, the order of samples and the loader."""
