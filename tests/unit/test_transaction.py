"""Answer rows, as the pipeline makes them."""

import numpy as np

from fraudgate.transaction import ANSWER_DTYPE, Status, decided_rows


def test_decided_rows_share_all_but_what_is_told_of_each() -> None:
    rows = decided_rows(3, 9, 10, 20, 30, 40)
    expected = np.zeros(3, ANSWER_DTYPE)
    expected["status"], expected["scored"], expected["batch_rows"], expected["edition"] = Status.OK, True, 3, 9
    stamps = {"taken_up_ns": 10, "gathered_ns": 20, "inferred_ns": 30, "answered_ns": 40}
    for name, value in stamps.items():
        expected[name] = value
    assert rows.tobytes() == expected.tobytes()
    rows["decision"] = 2
    assert decided_rows(3, 9, 10, 20, 30, 40).tobytes() == expected.tobytes(), "nothing is shared with the next"
