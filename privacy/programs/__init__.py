"""Programs over noisy sums: every analysis is one of these, and a new one changes no gate."""
