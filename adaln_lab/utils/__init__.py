"""Files, environment, assets, and equations that are run."""
