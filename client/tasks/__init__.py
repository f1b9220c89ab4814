"""The partner's halves of the two doors."""
