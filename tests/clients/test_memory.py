"""Large blocks to many actors, where memory is ample and where it is not."""

import pytest
from asking import rows, value

# Holds a block for a while, and says when.
HOLD = """CREATE FUNCTION hold(x BIGINT) RETURNS VARCHAR LANGUAGE python AS $$
import time
class hold:
    def __call__(self, x):
        began = time.time()
        time.sleep(0.05)
        return [f'{began} {time.time()}'] * len(x)
$$"""
ACTORS, BLOCK_ROWS, BLOCKS = 8, 50_000, 60
# 0.4 MB are sent, with 1.2 MB beside them, and 1.9 MB come of it.
INPUT = f"SELECT value AS x, value + 1 AS y, value + 2 AS z FROM generate_series(1, {BLOCK_ROWS * BLOCKS})"
CALL = f"map_batches(TABLE({INPUT}), hold, concurrency => {ACTORS}"
SQL = {"alone": f"{CALL})", "cluster": f"{CALL}, num_cpus => 0.1)"}


def at_a_time(found):
    """Most calls at a time, of those that began and ended as `found` says."""
    turns = [text.split() for (text,) in found]
    changes = sorted([(float(began), 1) for began, _ in turns] + [(float(ended), -1) for _, ended in turns])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("mode", SQL)
def test_few_large_blocks_are_on_their_way_where_memory_is_short(start, mode, tmp_path):
    most = {}
    for limit in ("1GiB", "16MiB"):
        server = start(
            executors=2 if mode == "cluster" else 0,
            args=["--memory-limit", limit],
            data_dir=tmp_path / limit,
        )
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(HOLD)
            cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
            # All rows come out.
            assert value(cursor, f"SELECT sum(x) FROM {SQL[mode]}") == sum(range(BLOCK_ROWS * BLOCKS + 1))
            found = rows(cursor, f"SELECT DISTINCT hold FROM {SQL[mode]}")
            assert len(found) == BLOCKS
            most[limit] = at_a_time(found)
            plan = "\n".join(text for _, text in rows(cursor, f"EXPLAIN ANALYZE SELECT max(hold) FROM {SQL[mode]}"))
            if mode == "alone":
                assert ("blocks_held_back=0" in plan) == (limit == "1GiB"), plan
        server.stop()
    assert most["1GiB"] == ACTORS
    # As many as there is room for in half of it.
    assert 1 <= most["16MiB"] <= 3, most
