"""Floor 4, the lab: everything a researcher runs. Simulated parts are called so."""
