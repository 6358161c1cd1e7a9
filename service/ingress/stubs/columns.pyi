from collections.abc import Sequence

class Columns:
    """The rows of one batch, opened column by column. Its buffer is int64[4, rows], read-only: event_time_ns,
    amount_minor, arrival_ns, deadline_ns."""

    def __init__(
        self, transactions: Sequence[Transaction], arrival_ns: Sequence[int], deadline_ns: Sequence[int]
    ) -> None:
        """Stamps are monotonic nanoseconds; deadline 0 = none."""

    @property
    def rows(self) -> int: ...
    @property
    def plain(self) -> bool:
        """Whether every row's ids are surely fine, see ``Transaction.plain``."""

    def digests(self) -> list[bytes]:
        """The payload digest of each row, 16 bytes each."""

    def texts(self, column: int) -> list[str | None]:
        """A fresh list of one column: 0 transaction_id, 1 currency, 2 and on the ids, None where one is absent."""

    def attributes(self) -> list[dict[str, float]] | None:
        """The attributes of each row; None where no row has any."""

    def arrow_address(self) -> int:
        """The address of an ArrowArray for ``pyarrow.RecordBatch._import_from_c(address, REQUEST_SCHEMA)``, which moves
        it out. Good until the next call; the buffers are those of this object."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
