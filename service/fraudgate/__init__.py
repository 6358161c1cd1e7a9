"""Fraudgate decides card payments: approve, review or decline, within a budget, with reasons and proof."""

__version__ = "0.1.0"
