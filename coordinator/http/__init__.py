"""The HTTP surface: parses requests, calls the paths, words the answers."""
