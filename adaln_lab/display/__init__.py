"""Figures and widgets that several notebooks share."""
