"""Masks in the shapes of other people's tools; each is an extra: ``pip install x2sam-label-studio[supervision]``."""
