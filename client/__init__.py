"""Floor 3, the partner: node, gate, and what the gate keeps. Never imports ``server``."""
