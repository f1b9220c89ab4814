"""What is fuzzed, and how inputs are made: see :mod:`simulations.attacks.fuzz`."""
