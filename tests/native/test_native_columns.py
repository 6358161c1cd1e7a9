"""Native columns against ``frontend.codec.request_columns`` and ``request_batch``: the same to the last bit."""

import gc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudgate.frontend.codec import request_batch, request_columns
from fraudgate.frontend.native_columns import NativeColumns
from fraudgate.idempotency import payload_digests
from fraudgate.transaction import REQUEST_SCHEMA, open_batch
from fraudgate.v1 import scoring_pb2
from fraudgate.validation import Validator
from tests.native.messages import transactions
from tests.unit.test_codec import same
from tests.unit.transactions import numbered, transaction

native = pytest.importorskip("fraudgate_ingress", reason="the native front end is not built: cargo is missing")


def native_columns(made: list[scoring_pb2.Transaction], arrival_ns: list[int], deadline_ns: list[int]) -> Any:
    rows, _ = native.decode_batch(scoring_pb2.ScoreBatchRequest(transactions=made).SerializeToString())
    return native.Columns(rows, arrival_ns, deadline_ns)


def imported(columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch._import_from_c(columns.arrow_address(), REQUEST_SCHEMA)


few = st.lists(transactions, min_size=1, max_size=6)
many = st.lists(st.integers(0, 3), min_size=1, max_size=40).map(
    lambda kinds: [transaction(transaction_id=f"tx-{i}", card_id="c" * kind) for i, kind in enumerate(kinds)]
)


@settings(max_examples=150)
@given(few | many, st.integers(0, 2**62), st.lists(st.sampled_from([0, -1, 2**62]), min_size=40, max_size=40))
def test_columns_are_those_of_the_reference(
    made: list[scoring_pb2.Transaction], arrival_ns: int, deadlines_ns: list[int]
) -> None:
    rows = len(made)
    stamps = list(range(arrival_ns, arrival_ns + rows)), deadlines_ns[:rows]
    expected = request_columns(made, *stamps)
    found = native_columns(made, *stamps)
    columns = NativeColumns(found)
    assert columns.earliest() == expected.earliest()
    assert columns.extent() == expected.extent()
    assert set(columns.currencies()) == expected.currencies()
    assert same(columns, expected)
    assert columns.plain == Validator._texts_clean(expected)
    assert columns.digests == payload_digests(expected, range(rows))
    batch = imported(found)
    batch.validate(full=True)
    assert batch.schema.equals(REQUEST_SCHEMA, check_metadata=True)
    assert batch.num_rows == rows
    assert same(open_batch(batch), expected)
    reference = request_batch(expected)
    for name in REQUEST_SCHEMA.names:
        if name != "attributes":  # a map: its order is free, and a not-a-number equals nothing
            assert batch.column(name).equals(reference.column(name)), name


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 31, 32])
@pytest.mark.parametrize("attributes", [{}, {"risk": 0.5}])
def test_the_record_batch_is_that_of_the_reference(rows: int, attributes: dict[str, float]) -> None:
    made = [
        transaction(
            transaction_id=f"tx-{i}", merchant_id="", terminal_id=f"t-{i}" * (i % 3 != 1), attributes=attributes
        )
        for i in range(rows)
    ]
    stamps = list(range(rows)), list(range(100, 100 + rows))
    batch = imported(native_columns(made, *stamps))
    assert batch.equals(request_batch(request_columns(made, *stamps)), check_metadata=True)
    assert [column.null_count for column in batch.columns[4:10]] == [0, len(range(1, rows, 3)), 0, rows, 0, 0]


def test_no_rows_at_all() -> None:
    columns = native.Columns([], [], [])
    batch = imported(columns)
    batch.validate(full=True)
    assert batch.num_rows == 0
    assert (columns.rows, columns.texts(0), columns.digests(), columns.attributes()) == (0, [], [], None)
    assert np.asarray(columns).shape == (4, 0)


def test_the_record_batch_outlives_the_columns_and_they_outlive_it() -> None:
    made = numbered(5, attributes={"risk": 0.5})
    expected = request_batch(request_columns(made, [1] * 5, [2] * 5))
    columns = native_columns(made, [1] * 5, [2] * 5)
    batch, numbers = imported(columns), np.asarray(columns)
    column = batch.column("card_id")
    del columns
    gc.collect()
    assert batch.equals(expected)
    del batch
    gc.collect()
    assert numbers[2:].tolist() == [[1] * 5, [2] * 5]
    assert column.equals(expected.column("card_id"))


def test_the_record_batch_can_be_had_again_and_an_address_may_go_unused() -> None:
    columns = native_columns(numbered(3), [1] * 3, [0] * 3)
    columns.arrow_address()
    first = imported(columns)
    columns.arrow_address()
    assert first.equals(imported(columns))


def test_numbers_are_one_read_only_block_that_the_record_batch_shares() -> None:
    columns = native_columns(numbered(3), [1, 2, 3], [0] * 3)
    numbers, batch = np.asarray(columns), imported(columns)
    assert numbers.dtype == np.int64
    assert numbers.flags.c_contiguous
    assert not numbers.flags.writeable
    view = memoryview(columns)
    assert (view.shape, view.strides, view.format, view.readonly) == ((4, 3), (24, 8), "q", True)
    assert np.frombuffer(columns, np.int64).tolist() == numbers.ravel().tolist()
    for name, row in zip(("event_time", "amount_minor", "arrival_ns", "deadline_ns"), numbers, strict=True):
        assert batch.column(name).buffers()[1].address == row.ctypes.data


def test_lists_are_fresh() -> None:
    columns = native_columns(numbered(2), [0, 0], [0, 0])
    columns.texts(0).clear()
    assert columns.texts(0) == ["tx-0", "tx-1"]
    with pytest.raises(IndexError):
        columns.texts(8)


def test_stamps_for_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="one arrival and one deadline"):
        native.Columns([], [1], [])
