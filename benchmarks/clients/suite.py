"""User code and the operators around it, beside bare processes, Daft and Ray Data.

    suite.py run DATA             measures, and keeps a record by commit
    suite.py compare BEFORE AFTER two records side by side
    suite.py chart                records as a picture

`--help` after a command says more. Needs the packages of tests/clients/requirements.txt,
`chart` those of benchmarks/clients/requirements.txt.
"""

import argparse
import pathlib
import sys

from bench import records
from bench.cases import CASES, PEERS, USER_CODE, chosen

RUN = """
Each of our runs of m1 to m3 has a fresh server; who goes first in a pair alternates; one
round that warms files is not counted. The other cases have a server each. All systems
read the same files, which are made next to DATA, and their sums have to be equal.
The binary is $MOBULA_BIN or mobula, the Python of its workers $MOBULA_PYTHON or this one.

cases:
{cases}
peers, beside m1 to m3:
{peers}
exit status: 0, or 1 when something failed or, with --check, a number owed is missed;
2 when something is not there; 130 after Ctrl-C, which loses nothing that was measured.
"""


def arguments(argv=None):
    parser = argparse.ArgumentParser(
        prog="suite.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|compare|chart")
    for add in (add_run, add_compare, add_chart):
        command = add(commands)
        command.add_argument(
            "--results", type=pathlib.Path, default=records.RESULTS, metavar="DIR",
            help="where records are kept; default benchmarks/results",
        )
    options = parser.parse_args(argv)
    if options.command == "run" and options.data is None:
        needy = [case for case in options.cases if case in USER_CODE]
        if needy:
            commands.choices["run"].error(f"{', '.join(needy)} need DATA")
    return options


def add_run(commands):
    lists = {
        "cases": "\n".join(f"  {name:<9}{what}" for name, what in CASES.items()),
        "peers": "\n".join(f"  {name:<9}{what}" for name, what in PEERS.items()) + "\n",
    }
    run = commands.add_parser(
        "run", help="measure, and keep a record by commit", epilog=RUN.format(**lists),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "data", type=directory, nargs="?", metavar="DATA",
        help="directory with lineitem.parquet and orders.parquet, as `mobula tpch-data --sf 1 --out DATA`"
        " makes them; only m1 to m3 need it",
    )
    run.add_argument(
        "--cases", type=names(CASES, "case"), default=list(CASES), help="separated by commas; default all"
    )
    run.add_argument(
        "--peers", type=names(PEERS, "peer"), default=["floor"], help="separated by commas; default floor"
    )
    run.add_argument(
        "--peer-python", default=sys.executable, metavar="PYTHON", help="a Python with the peers' packages"
    )
    run.add_argument("--pairs", type=at_least(1), default=7, help="pairs, or runs, of each number; default 7")
    run.add_argument(
        "--executors", type=at_least(0), default=0, help="executor processes; default 0, the server itself"
    )
    run.add_argument("--check", action="store_true", help="exit with 1 when a number owed is missed")
    return run


def add_compare(commands):
    compare = commands.add_parser(
        "compare", help="two records side by side",
        description="Prints both sides of each number, and warns of what else differs. Seconds of two sittings"
        " differ by themselves on a shared machine: look at the ratios to the peers.",
    )
    of = "a results file, or how a commit with results begins: its newest, of a clean checkout before a changed one"
    compare.add_argument("before", metavar="BEFORE", help=of)
    compare.add_argument("after", metavar="AFTER", help="the same")
    return compare


def add_chart(commands):
    chart = commands.add_parser(
        "chart", help="records as a picture",
        description="Draws seconds of all systems and the operators' numbers, with what is owed, as one SVG.",
    )
    chart.add_argument("result", nargs="*", metavar="RESULT", help="as of compare; default the newest record")
    chart.add_argument("--output", type=pathlib.Path, required=True, metavar="FILE.svg")
    return chart


def names(known, what):
    def read(text):
        try:
            return chosen(text, known, what)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def at_least(least):
    def read(text):
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"has to be {least} or more, not {number}")
        return number

    return read


def directory(text):
    path = pathlib.Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no directory '{text}'")
    return path


def main():
    options = arguments()
    try:
        return {"run": run, "compare": compare, "chart": chart}[options.command](options)
    except records.Unreadable as error:
        return refuse(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


# Each command imports only what it needs: a record is compared where no client is installed.


def run(options):
    try:
        from bench import run as runner
    except ImportError as error:
        return refuse(f"{error}: pip install -r tests/clients/requirements.txt")
    try:
        return runner.run(options)
    except runner.Refused as error:
        return refuse(error)


def compare(options):
    from bench import compare as comparison

    paths = [records.find(name, options.results) for name in (options.before, options.after)]
    comparison.show(*map(records.read, paths))
    return 0


def chart(options):
    try:
        from bench import chart as picture
    except ImportError as error:
        return refuse(f"{error}: pip install -r benchmarks/clients/requirements.txt")
    paths = [records.find(name, options.results) for name in options.result] or [records.newest(options.results)]
    given = [records.read(path) for path in paths]
    try:
        picture.draw(given, options.output)
    except OSError as error:
        return refuse(error)
    print(f"the chart of {', '.join(path.name for path in paths)} is in {options.output}")
    return 0


def refuse(error):
    print(f"suite.py: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
