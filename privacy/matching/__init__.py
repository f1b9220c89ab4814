"""The second door: private set intersection by commutative blinding."""
