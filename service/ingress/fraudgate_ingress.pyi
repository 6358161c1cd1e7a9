"""The native front end of Fraudgate: what happens per packet.

Python enters once per batch: it pulls closed batches and pushes answers. No thread of this module takes the interpreter
lock. Durations are integers in nanoseconds, money integers in minor units.
"""

__version__: str
