"""The front door and the brain: HTTP in, shards out to nodes, metadata in a database.

HTTP handlers call the write path and the read path; these call placement, lanes and metadata.
The write path and the read path never import each other.
"""
