"""The whole service on a fake clock: seeded traffic, faults, and invariants that are checked as it runs."""
