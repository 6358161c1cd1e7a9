"""Every run draws the same examples: a failure seen once is seen again. Wall-clock deadlines have no place in tests."""

from hypothesis import settings

settings.register_profile("fraudgate", derandomize=True, deadline=None, database=None)
settings.load_profile("fraudgate")
