"""Floor 1, the mathematics: arrays and bytes in, arrays and bytes out.

Nothing here opens a file or a socket, reads a clock or draws its own randomness.
"""
