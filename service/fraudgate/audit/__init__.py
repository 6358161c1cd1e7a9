"""The batch log, and the replay that proves how batches were composed."""
