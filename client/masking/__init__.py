"""Masking for a partner's own people: policies, keys, files. Nothing here talks to anybody."""
