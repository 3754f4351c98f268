"""The pure parts of the benchmarks' suite: no server, no peer, no timing."""

import copy
import datetime
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import suite
from bench import actors, compare, inputs, operators, owed, processes, records, run, stats
from bench.cases import CASES, PEERS, chosen

NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, tzinfo=datetime.timezone.utc)


def test_middle_ratios_and_spread():
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert stats.median([]) is None and stats.spread([]) is None
    assert stats.spread([2.0, 0.5, 1.0]) == (0.5, 2.0)
    # The half pair of an interrupted run does not count.
    assert stats.ratios([1.0, 3.0, 9.0], [2.0, 2.0]) == [0.5, 1.5]


def test_each_side_goes_first_in_turn():
    assert [stats.order(n)[0] for n in range(4)] == ["ours", "theirs", "ours", "theirs"]
    assert all(sorted(stats.order(n)) == ["ours", "theirs"] for n in range(4))


def test_sums_are_close_relative_to_their_size():
    assert stats.close(1e9, 1e9 + 0.5, 1e-9)
    assert not stats.close(1e9, 1e9 + 2, 1e-9)
    assert not stats.close(1e-12, 2e-12, 1e-9)
    assert stats.close(0.0, 0.0, 1e-9)
    assert not stats.close(1.0, float("nan"), 1e-9)


def test_a_number_is_the_median_of_the_ratios_of_pairs():
    # The ratio of the medians would be 2.
    [number] = owed.numbers("m1", case(pairs("floor", [1.0, 2.0, 6.0], [1.0, 1.0, 4.0])))
    assert (number.value, number.spread, number.values) == (1.5, (1.0, 2.0), [1.0, 2.0, 1.5])
    assert (number.ours_s, number.theirs_s) == (2.0, 1.0)
    assert (number.sign, number.bound, number.met) == ("≤", 1.5, True)
    assert str(number).endswith("1.500 × floor (1.000 to 2.000, 3 pairs; 2.000 s against 1.000 s)   owed ≤ 1.5: met")


def test_a_speedup_is_the_other_way_round():
    [number] = owed.numbers("workers", case(pairs("one worker", [1.0], [1.7], kind="speedup")))
    assert number.value == 1.7 and number.met is False and "MISSED" in str(number)
    [number] = owed.numbers("workers", case(pairs("one worker", [1.0], [1.9], kind="speedup")))
    assert number.met is True


def test_counts_are_exact_and_nothing_measured_is_no_number():
    one = {"kind": "count", "name": "rows", "found": 9, "expected": 10}
    free = {"kind": "count", "name": "slots", "found": 2, "expected": None}
    found = owed.numbers("limit", case(one, {**one, "found": 10}, free))
    assert [number.met for number in found] == [False, True, None]
    assert owed.numbers("m1", case(pairs("ray", [], []))) == []
    assert owed.our_seconds(case(pairs("ray", [], []), pairs("floor", [1.0], [2.0]))) == [1.0]


def test_of_a_level_more_is_better():
    name = "blocks of one row a second to a named actor"
    level = {"kind": "level", "name": name, "values": [9_000.0, 12_000.0, 11_000.0]}
    [number] = owed.numbers("dispatch", case(level))
    assert (number.value, number.spread, number.met) == (11_000.0, (9_000.0, 12_000.0), True)
    assert str(number).endswith(f"11,000 {name} (9,000 to 12,000, 3 runs)   owed ≥ 10,000: met")
    assert owed.numbers("dispatch", case({**level, "values": []})) == []
    assert owed.our_seconds(case(level)) == []


def test_what_actors_do_of_what_they_could():
    # Two without a pause, one of which came late and went late: that is not counted.
    ms = 1_000_000
    blocks = [("a", at * ms, (at + 10) * ms) for at in range(0, 100, 10)]
    blocks += [("b", at * ms, (at + 10) * ms) for at in range(50, 150, 10)]
    assert actors.efficiency(blocks, 2) == (1.0, 1.0)
    # A block of b that takes twice as long, and a pause of 10 ms as well.
    slow = blocks[:10] + [("b", 50 * ms, 70 * ms), ("b", 80 * ms, 90 * ms), ("b", 90 * ms, 150 * ms)]
    linear, busy = actors.efficiency(slow, 2)
    assert busy == pytest.approx(0.9)
    assert linear == pytest.approx((5 + 1 + 1 + 1 / 6) / 10)
    with pytest.raises(ValueError, match="1 actors of 2 had blocks"):
        actors.efficiency(blocks[:10], 2)
    with pytest.raises(ValueError, match="never all at work"):
        actors.efficiency([("a", 0, ms), ("b", 2 * ms, 3 * ms)], 2)


def test_what_is_owed_belongs_to_a_case():
    assert {name for name, *_ in owed.OWED} <= CASES.keys()
    for name in ("m1", "m2", "m3"):
        assert {peer for one, peer, *_ in owed.OWED if one == name} == PEERS.keys()


def test_names_are_chosen_in_the_order_of_a_run():
    assert chosen("m3, m1", CASES, "case") == ["m3", "m1"][::-1]
    for text, said in [("", "names no case"), (",", "names no case"), ("m9", "no case 'm9'"), ("m1,m1", "twice")]:
        with pytest.raises(ValueError, match=said):
            chosen(text, CASES, "case")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", ".", "--cases", "m4"], "no case 'm4': there are m1, m2"),
        (["run", ".", "--cases", ""], "names no case"),
        (["run", ".", "--peers", "spark"], "no peer 'spark': there are floor, daft, ray"),
        (["run", ".", "--peers", ","], "names no peer"),
        (["run", ".", "--pairs", "0"], "has to be 1 or more, not 0"),
        (["run", ".", "--pairs", "many"], "'many' is no whole number"),
        (["run", ".", "--executors", "-1"], "has to be 0 or more"),
        (["run", "/nowhere"], "no directory '/nowhere'"),
        (["run", "--cases", "small,m2"], "m2 need DATA"),
        (["compare", "one"], "AFTER"),
        (["chart"], "--output"),
        ([], "run|compare|chart"),
    ],
)
def test_wrong_arguments_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        suite.arguments(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_arguments_have_defaults():
    options = suite.arguments(["run", ".", "--peers", "ray,floor"])
    assert (options.cases, options.peers, options.pairs) == (list(CASES), ["floor", "ray"], 7)
    assert options.results == records.RESULTS and not options.check
    options = suite.arguments(["run", "--cases", "small"])
    assert (options.data, options.peers) == (None, ["floor"])


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = records.path_of(tmp_path, "abc", NOON)
    assert path.name == "abc-20260102T120000Z.json"
    records.write(record(), path)
    records.write(record(commit="def"), path)
    assert records.read(path) == record(commit="def")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_record_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    records.write(record(), path)
    with pytest.raises(TypeError):
        records.write({"format": 1, "cases": object()}, path)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="full"):
        patched.setattr(records.os, "replace", fail)
        records.write(record(commit="def"), path)
    assert records.read(path) == record()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read .*r.json: No such file"),
        ("{", "r.json is no results file"),
        ("[1]", "r.json is no results file of suite.py"),
        ('{"benchmark": "tpch"}', "r.json is no results file of suite.py"),
        (json.dumps({"format": records.FORMAT, "cases": {}}), "r.json lacks at, binary, commit, data"),
        (json.dumps({"format": records.FORMAT + 1}), f"r.json has format {records.FORMAT + 1}, this program reads"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(records.Unreadable, match=said):
        records.read(path)


def test_results_are_found_by_commit(tmp_path):
    later = NOON + datetime.timedelta(hours=1)
    for commit, at in [("abc123", NOON), ("abc123", later), ("abc123-dirty", later), ("abd456", NOON)]:
        records.write(record(commit=commit), records.path_of(tmp_path, commit, at))
    assert records.find("abc", tmp_path) == records.path_of(tmp_path, "abc123", later)
    assert records.find("abc123-d", tmp_path) == records.path_of(tmp_path, "abc123-dirty", later)
    path = records.path_of(tmp_path, "abd456", NOON)
    assert records.find(str(path), tmp_path / "nowhere") == path
    with pytest.raises(records.Unreadable, match="abc123 or abc123-dirty or abd456"):
        records.find("ab", tmp_path)
    with pytest.raises(records.Unreadable, match="there are abc123, abc123-dirty, abd456"):
        records.find("f00", tmp_path)
    with pytest.raises(records.Unreadable, match="there are no results"):
        records.newest(tmp_path / "nowhere")


def test_two_records_side_by_side():
    before, after = record(), record(commit="def")
    before["cases"]["m1"] = case(pairs("floor", [1.0] * 4, [1.0] * 4))
    after["cases"]["m1"] = case(pairs("floor", [0.5] * 4, [1.0, 1.0, 1.0, 0.5]))
    after["cases"]["small"] = case({"kind": "seconds", "name": "blocks", "ours": [0.25]})
    for side, seen in ((before, 10), (after, 11)):
        counts = [{"kind": "count", "name": name, "expected": None} for name in ("rows", "slots")]
        side["cases"]["limit"] = case({**counts[0], "found": seen}, {**counts[1], "found": 2})
    after["cases"]["workers"] = case(pairs("one worker", [1.0], [1.5], kind="speedup"))
    assert compare.rows(before, after) == [
        ("m1", "s", 1.0, 0.5, True),
        # One pair of it is as before.
        ("m1", "× floor", 1.0, 0.5, False),
        ("limit", "rows", 10, 11, False),
        ("small", "s for blocks", None, 0.25, False),
        ("workers", "× as fast as one worker", None, 1.5, False),
        ("workers", "s, beside one worker", None, 1.0, False),
    ]


def test_few_runs_are_apart_by_chance():
    assert compare.apart([1.0, 2.0, 1.5, 1.0], [3.0, 2.5, 4.0, 3.0])
    assert compare.apart([3.0, 2.5, 4.0, 3.0], [1.0, 2.0, 1.5, 1.0])
    assert not compare.apart([1.0, 2.0, 1.5, 1.0], [3.0, 2.0, 4.0, 3.0])
    assert not compare.apart([1.0] * 3, [2.0] * 9) and not compare.apart([], [])


def test_equal_conditions_give_no_warning():
    after = record(commit="def")
    after["binary"]["sha256"] = "22"
    # How busy the machine was is no property of it.
    after["machine"]["load_average"] = [9.0, 9.0, 9.0]
    # Nor is a file that only one of them read.
    after["data"]["files"]["y"] = {"rows": 3}
    assert compare.warnings(record(), after) == []
    assert compare.warnings(record(), {**after, "data": None}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["machine"].update(cpu="B"), "CPU differ: A and B"),
        (lambda r: r["machine"].update(cores=4), "cores differ: 2 and 4"),
        (lambda r: r["data"]["files"].update(x={"rows": 2}), "x differ: rows (1 and 2)"),
        (lambda r: r["data"].update(name="sf10"), "data differ: sf1 and sf10"),
        (lambda r: r["settings"].update(pairs=3), "pairs differ: 7 and 3"),
        (lambda r: r["peers"]["floor"].update(numpy="3"), "versions of floor differ: numpy (2 and 3)"),
        (lambda r: r["peers"].update(ray={}), "ray was measured only after"),
        (lambda r: r["binary"].update(profile="debug"), "profile differ: release and debug"),
        (lambda r: r["binary"].update(sha256="11"), "the commits differ, but both ran the same binary"),
        (lambda r: r.update(state="interrupted"), "the run after is interrupted: it may have fewer pairs or cases"),
        (lambda r: r.update(commit="def-dirty"), "the checkout after had changes that its commit does not show"),
    ],
)
def test_unequal_conditions_are_named(change, said):
    after = record(commit="def")
    after["binary"]["sha256"] = "22"
    change(after)
    assert compare.warnings(record(), after) == [said]


def test_compare_prints_all_and_refuses_another_format(tmp_path, capsys, monkeypatch):
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    records.write(record(), before)
    records.write(record(commit="def"), after)
    monkeypatch.setattr(sys, "argv", ["suite.py", "compare", str(before), str(after)])
    assert suite.main() == 0
    printed = capsys.readouterr().out
    assert "before: abc at" in printed and "warning: the commits differ" in printed and "× floor" in printed
    records.write({**record(), "format": 0}, after)
    assert suite.main() == 2
    assert f"{after} has format 0" in capsys.readouterr().err


def test_inputs_are_the_first_rows_in_several_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "CUTS", {"m1": ("lineitem", None, None), "m2": ("orders", 25, 10)})
    data = tmp_path / "sf1"
    data.mkdir()
    table = pa.table({"n": range(40), "text": ["some"] * 40})
    for name in ("lineitem", "orders"):
        pq.write_table(table, data / f"{name}.parquet", row_group_size=30)
    inputs.check(data, ["m1", "m2"])
    cut = inputs.file(data, "m2")
    assert (cut.parent.name, cut.name) == ("sf1-suite", "orders-25.parquet")
    assert pq.read_table(cut).equals(table.slice(0, 25))
    assert inputs.facts(cut) == {"bytes": cut.stat().st_size, "rows": 25, "row_groups": 3}
    assert b"ARROW:schema" not in (pq.read_metadata(cut).metadata or {})
    assert inputs.facts(inputs.file(data, "m1"))["rows"] == 40
    made = cut.stat().st_mtime_ns
    assert inputs.file(data, "m2").stat().st_mtime_ns == made
    pq.write_table(table.slice(1), data / "orders.parquet")
    assert pq.read_table(inputs.file(data, "m2"))["n"][0].as_py() == 1
    pq.write_table(table.slice(20), data / "orders.parquet")
    with pytest.raises(inputs.Missing, match="m2 needs 25 rows, .*orders.parquet has 20"):
        inputs.check(data, ["m2"])
    with pytest.raises(inputs.Missing, match="m1 needs .*lineitem.parquet, a single file"):
        inputs.check(tmp_path, ["m1"])


def test_metrics_are_read_from_a_plan():
    plan = "MapBatchesExec: metrics=[calls=153, rows_to_workers=1.05 K, slots_created=4]"
    assert operators.metric(plan, "calls") == 153
    assert operators.metric(plan, "rows_to_workers") == 1050
    with pytest.raises(ValueError, match="says nothing of workers"):
        operators.metric(plan, "workers")


def test_a_run_ends_with_what_it_found(tmp_path, capsys):
    met, missed, failed = record(), record(), record()
    missed["cases"]["m1"] = case(pairs("floor", [2.0], [1.0]))
    failed["cases"]["m1"]["errors"]["ray"] = "ended"
    stopped = {**record(), "state": "interrupted"}

    def status(one, check):
        options = suite.arguments(["run", "--cases", "small", *(["--check"] if check else [])])
        return run.finish(one, tmp_path / "r.json", options)

    assert [status(one, False) for one in (met, missed, failed, stopped)] == [0, 0, 1, 130]
    assert [status(one, True) for one in (met, missed, failed, stopped)] == [0, 1, 1, 130]
    printed = capsys.readouterr().out
    assert "missed: m1 × floor\n" in printed and "failed: m1 on ray\n" in printed
    assert f"interrupted; kept in {tmp_path / 'r.json'}: m1 (floor 2 times)\n" in printed


def test_nothing_of_a_command_stays(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(processes, "LINGER_S", 0.01)
    processes.adopt()
    before = processes.below()
    daemon = "import os, time; os.setsid(); open('started', 'w').close(); time.sleep(60)"
    script = f"""
import os, subprocess, sys, time
os.chdir({str(tmp_path)!r})
subprocess.Popen([sys.executable, '-S', '-c', {daemon!r}])
while not os.path.exists('started'):
    time.sleep(0.01)
"""
    # The daemon has left the group of its parent, which has ended.
    assert processes.output([sys.executable, "-S", "-c", script], 60) == ""
    assert (tmp_path / "started").exists()
    assert "behind: killed" in capfd.readouterr().err
    assert processes.below() <= before


def test_a_command_has_its_time():
    before = processes.below()
    with pytest.raises(processes.Failed, match="no answer after 0.1 s"):
        processes.output([sys.executable, "-S", "-c", "import time; time.sleep(60)"], 0.1)
    assert processes.below() <= before


def test_a_command_that_fails_says_so():
    with pytest.raises(processes.Failed, match="ended with status 3; the end of its standard error:\nno luck"):
        processes.output([sys.executable, "-S", "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"], 10)
    assert processes.output([sys.executable, "-S", "-c", "print(1)"], 10) == "1\n"


def fail(*_):
    raise OSError("full")


def pairs(name, ours, theirs, kind="pairs"):
    return {"kind": kind, "name": name, "ours": ours, "theirs": theirs, "first": ["ours"] * len(ours)}


def case(*measures):
    return {"measures": list(measures), "sums": {}, "errors": {}}


def record(commit="abc"):
    return copy.deepcopy(
        {
            "format": records.FORMAT,
            "state": "complete",
            "commit": commit,
            "at": NOON.isoformat(),
            "binary": {"version": "mobula 0.1.0", "profile": "release", "sha256": "11"},
            "machine": {"cores": 2, "memory_bytes": 1, "cpu": "A", "kernel": "K", "load_average": [0.0, 0.0, 0.0]},
            "python": {"client": {"python": "3"}, "workers": {"python": "3"}},
            "peers": {"floor": {"numpy": "2"}},
            "settings": {"pairs": 7, "executors": 0, "environment": {}},
            "data": {"name": "sf1", "files": {"x": {"rows": 1}}},
            "cases": {"m1": case(pairs("floor", [1.0, 1.0], [1.0, 1.0]))},
        }
    )
