"""Disks for tests, beside the real one: recording, failing by a script, losing what was not
synced. All pass one contract (tests/test_disks.py)."""
