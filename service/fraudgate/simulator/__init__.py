"""A seeded simulator of card traffic, for benchmarks, golden inputs, and wherever the public benchmark is absent."""

from fraudgate.simulator.traffic import simulate

__all__ = ["simulate"]
