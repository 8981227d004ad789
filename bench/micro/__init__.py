"""Microbenchmarks: each piece of the servers alone, in one process."""
