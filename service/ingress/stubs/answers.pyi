from collections.abc import Callable, Mapping, Sequence

def check_answer_layout(row_bytes: int, fields: Mapping[str, tuple[str, int]]) -> None:
    """ValueError unless rows of ``ANSWER_DTYPE`` are laid out as this build reads them.

    ``fields``: (NumPy type, offset) by name, for instance ``{"score": ("<f4", 4)}``.
    """

class Renderer:
    """Answer rows to ScoreResponse bytes."""

    def __init__(self, tail: Callable[[int, int], tuple[str, bytes]]) -> None:
        """``tail(edition, rules)``: the edition's run id, and the encoded fields that the two fix."""

    def render(self, answers: bytes, transaction_ids: Sequence[str]) -> list[bytes]:
        """ScoreResponse bytes of rows with status OK, in order. ``answers``: the bytes of ANSWER_DTYPE[n]."""

def score_result(transaction_id: str, response: bytes | None, error: bytes | None) -> bytes:
    """An encoded ScoreResult: ``response`` is an encoded ScoreResponse, ``error`` an encoded google.rpc.Status."""

def score_batch_entry(transaction_id: str, response: bytes | None, error: bytes | None) -> bytes:
    """An encoded ScoreBatchResponse with one entry; encodings of several concatenate."""
