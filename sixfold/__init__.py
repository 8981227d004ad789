"""The client library and the `sixfold` command. Starts servers only as processes."""

__version__ = "0.1.0"
