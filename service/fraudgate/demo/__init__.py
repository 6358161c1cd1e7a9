"""``make demo``: a real week of card transactions through ``Score()``, judged beside published results."""
