"""Files, environment, shipped assets, and proofs of equations."""
