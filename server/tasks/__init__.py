"""The coordinator's halves of the two doors."""
