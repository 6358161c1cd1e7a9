"""A decided batch at a glance: what those who watch every batch need of it."""

from fraudgate.transaction import Answers

Spans = tuple[int, int, int, int, int]
"""Nanoseconds: from the arrival of the row that waited longest to the decision, then ``taken_up_ns``, ``gathered_ns``,
``inferred_ns`` and ``answered_ns``, which the rows of an engine call share."""


def spans_of(decided: Answers) -> Spans:
    """Of ANSWER_DTYPE[n], n >= 1."""
    longest_ns = int((decided["answered_ns"] - decided["arrival_ns"]).max())
    first = decided[0]
    return (
        longest_ns,
        int(first["taken_up_ns"]),
        int(first["gathered_ns"]),
        int(first["inferred_ns"]),
        int(first["answered_ns"]),
    )
