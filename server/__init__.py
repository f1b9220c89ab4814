"""Floor 3, the coordinator: asks, waits, adds up. Never imports ``client``."""
