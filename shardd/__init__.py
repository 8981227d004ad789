"""The storage node: one process, one data directory, shards in append-only volumes."""
