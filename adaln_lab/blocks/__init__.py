"""Blocks of published models, one file an architecture; `zoo` holds the table of facts."""
