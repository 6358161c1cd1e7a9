"""``python -m fraudgate.simulator --seed 7 --out traffic.arrow``: write simulated traffic as an Arrow IPC file."""

import argparse

import pyarrow as pa
import pyarrow.compute as pc

from fraudgate.simulator.traffic import simulate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fraudgate.simulator", description="Write simulated card traffic.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--customers", type=int, default=5_000)
    parser.add_argument("--terminals", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--start", default="2018-04-01", metavar="DATE")
    parser.add_argument("--out", metavar="FILE", help="an Arrow IPC file; without it the traffic is only summed up")
    args = parser.parse_args()
    table = simulate(args.seed, args.customers, args.terminals, args.days, args.start)
    if args.out:
        with pa.OSFile(args.out, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=65_536)
    frauds = pc.sum(table["is_fraud"]).as_py()
    print(f"seed {args.seed}: {table.num_rows:,} transactions, {frauds:,} frauds ({frauds / table.num_rows:.2%})")


if __name__ == "__main__":
    main()
