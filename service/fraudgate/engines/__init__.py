"""Engines: what turns a slab of features into scores, and the repository they are published in."""
