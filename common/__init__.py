"""The pure core that both servers and the client share: words, formats, code, errors.

Nothing here imports another folder of the project, opens a file, reads a clock or looks at the
environment.
"""
