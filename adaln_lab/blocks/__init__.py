"""Blocks of published models, one file an architecture, numerically equal to the original implementations."""
