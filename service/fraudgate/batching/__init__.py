"""Dynamic batching: boundaries are a pure function of the arrival order and the arrival stamps."""
