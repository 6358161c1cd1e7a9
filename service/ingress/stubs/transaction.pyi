class Transaction:
    """A decoded transaction. Made by ``decode_request`` and ``decode_batch``."""

    @property
    def texts(self) -> list[str]:
        """transaction_id, currency, then the ids in the order of ``ENTITIES``; an absent one is empty."""

    @property
    def event_time_ns(self) -> int:
        """Nanoseconds since 1970, or ``EVENT_TIME_MISSING_NS`` or ``EVENT_TIME_OUTSIDE_NS``."""

    @property
    def amount_minor(self) -> int: ...
    @property
    def attributes(self) -> dict[str, float]: ...
    @property
    def plain(self) -> bool:
        """Every id is surely fine: printable ASCII, at most 64 bytes, and there is a transaction_id."""

    @property
    def digest(self) -> bytes:
        """What ``idempotency.payload_digests`` gives, 16 bytes."""

SCORE_BATCH_ROWS_MAX: int

def decode_request(message: bytes) -> Transaction | None:
    """Decode a ScoreRequest; None where it holds no transaction. ValueError: the bytes do not decode."""

def decode_batch(message: bytes) -> tuple[list[Transaction], int]:
    """Decode a ScoreBatchRequest to its first 512 rows and the count of all. ValueError: the bytes do not decode."""
