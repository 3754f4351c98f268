"""Large blocks to many actors, where memory is ample and where it is not."""

import pytest
from asking import rows

# Holds a block for a while, and says since when.
HOLD_S = 0.05
HOLD = f"""CREATE FUNCTION hold(x BIGINT) RETURNS DOUBLE LANGUAGE python AS $$
import time
class hold:
    def __call__(self, x):
        began = time.time()
        time.sleep({HOLD_S})
        return [began] * len(x)
$$"""
ACTORS, BLOCK_ROWS, BLOCKS = 8, 50_000, 60
# 0.4 MB are sent of the 1.2 MB that a block has, and as many come of it.
INPUT = f"SELECT value AS x, value + 1 AS y, value + 2 AS z FROM generate_series(1, {BLOCK_ROWS * BLOCKS})"
CALL = f"map_batches(TABLE({INPUT}), hold, concurrency => {ACTORS}"
SQL = {"alone": f"{CALL})", "cluster": f"{CALL}, num_cpus => 0.1)"}


def at_a_time(found):
    """Most calls at a time, of those that began as `found` says."""
    changes = sorted([(began, 1) for began, _ in found] + [(began + HOLD_S, -1) for began, _ in found])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@pytest.mark.parametrize("mode", SQL)
def test_few_large_blocks_are_on_their_way_where_memory_is_short(start, mode, tmp_path):
    most = {}
    for limit in ("1GiB", "8MiB"):
        server = start(
            executors=2 if mode == "cluster" else 0,
            args=["--memory-limit", limit],
            data_dir=tmp_path / limit,
        )
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(HOLD)
            cursor.execute(f"SET mobula.udf_batch_rows = {BLOCK_ROWS}")
            sql = f"SELECT hold, sum(x + y + z) FROM {SQL[mode]} GROUP BY hold"
            found = rows(cursor, sql)
            assert BLOCKS <= len(found) <= BLOCKS + 2
            all_rows = BLOCK_ROWS * BLOCKS
            assert sum(total for _, total in found) == 3 * all_rows * (all_rows + 1) // 2 + 3 * all_rows
            most[limit] = at_a_time(found)
            if mode == "alone":
                plan = "\n".join(text for _, text in rows(cursor, f"EXPLAIN ANALYZE {sql}"))
                assert ("blocks_held_back=0" in plan) == (limit == "1GiB"), plan
        server.stop()
    assert most["1GiB"] == ACTORS
    # Two or three find room in half of it beside the one that may always go; how many are at
    # work at a moment depends on when room comes free.
    assert 1 <= most["8MiB"] < ACTORS - 1, most
