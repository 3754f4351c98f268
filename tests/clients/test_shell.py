"""The prompt of `mobula sql`, at a terminal: what Tab and Enter do, commands, progress."""

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest
from servers import MOBULA

LIMIT_S = 60
SLOW = """CREATE FUNCTION slow(x BIGINT) RETURNS BIGINT LANGUAGE python AS $$
import time
def slow(x):
    time.sleep(0.1 * len(x))
    return x
$$;"""


class Terminal:
    """A shell at a terminal of 120 columns."""

    def __init__(self, home, *arguments):
        self.primary, secondary = pty.openpty()
        ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        env = {**os.environ, "HOME": str(home), "TERM": "xterm", "PAGER": "sed s/^/paged:/"}
        env.setdefault("MOBULA_PYTHON", sys.executable)
        self.shell = subprocess.Popen(
            [MOBULA, "sql", *arguments],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env=env,
            start_new_session=True,
            # Its own terminal, so that Ctrl-C is a signal.
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(secondary)
        self.seen = ""
        self.until("mobula> ")

    def type(self, text):
        os.write(self.primary, text.encode())

    def until(self, pattern):
        """What comes up to `pattern`; what comes later is still to be seen."""
        limit = time.monotonic() + LIMIT_S
        while not (found := re.search(pattern, self.seen)):
            left = limit - time.monotonic()
            assert left > 0 and select.select([self.primary], [], [], left)[0], self.seen
            text = os.read(self.primary, 65536).decode(errors="replace")
            # Colours, and where the cursor goes.
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def run(self, text):
        """What a line gives."""
        self.type(text + "\r")
        # Not what the line itself holds: it is drawn again with each key.
        return self.until(r"(?s)(rows?|done) in [\d.]+ s.*mobula> |is o[nf]+.*mobula> ")

    def close(self):
        if self.shell.poll() is None:
            self.shell.send_signal(signal.SIGKILL)
        self.shell.wait()
        os.close(self.primary)


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def test_tab_completes_words_names_and_paths(terminal, tmp_path):
    terminal.run("CREATE VIEW visitors AS SELECT 42 AS how_many;")
    (tmp_path / "only.csv").write_text("x\n17\n")
    terminal.type("SELECT how_\t FROM visi\t;\r")
    assert "42" in terminal.until("1 row")
    terminal.until("mobula> ")
    terminal.type(f"SELECT x FROM '{tmp_path}/on\t';\r")
    assert "17" in terminal.until("1 row")


def test_a_statement_of_several_lines_is_one_in_the_history(terminal):
    terminal.type("SELECT 1 +\r")
    terminal.type("41 AS n;\r")
    assert "42" in terminal.until("1 row")
    terminal.until("mobula> ")
    # Up, and again as it was.
    terminal.type("\x1b[A\r")
    assert "42" in terminal.until("1 row")


def test_commands_by_either_name(terminal, tmp_path):
    terminal.run("CREATE VIEW v AS SELECT 'a' AS letter;")
    assert "letter" in terminal.run("\\d v")
    assert "view" in terminal.run(".tables").lower()
    terminal.type(".mode csv\r")
    terminal.until("mobula> ")
    assert "letter\r\na\r\n" in terminal.run("SELECT * FROM v;")
    terminal.type(f"\\o {tmp_path}/out.csv\r")
    terminal.until("mobula> ")
    terminal.run("SELECT * FROM v;")
    assert (tmp_path / "out.csv").read_text() == "letter\na\n"
    (tmp_path / "in.sql").write_text("SELECT 6 * 7 AS n; SELECT 8 AS m;")
    terminal.type("\\o\r")
    terminal.until("mobula> ")
    terminal.type(f"\\i {tmp_path}/in.sql\r")
    assert "42" in terminal.until("8\r\n")
    terminal.until("mobula> ")
    terminal.type("\\mode xml\r")
    terminal.until("error: .*xml.* is not table, csv or json")
    terminal.type("\\nope\r")
    terminal.until("error: there is no command .nope")
    terminal.type("\\q\r")
    assert terminal.shell.wait(LIMIT_S) == 0


def test_long_results_go_through_the_pager(terminal):
    assert "… 40 of 50 rows" in terminal.run("SELECT value FROM generate_series(1, 50);")
    assert "is on" in terminal.run("\\pager on")
    paged = terminal.run("SELECT value FROM generate_series(1, 50);")
    assert paged.count("paged:|") == 51, paged


def test_what_is_typed_ahead_is_not_lost(terminal):
    terminal.type("SELECT 20 + 1 AS a;\rSELECT 40 + 2 AS b;\r")
    assert "42" in terminal.until(r"(?s)1 row in .*1 row in .*mobula> ")
    # While a statement runs, the terminal itself keeps what is typed.
    terminal.type("SELECT count(*) FROM generate_series(1, 30000000) WHERE value % 7 = 3;\r")
    terminal.type("SELECT 43 - 1 AS c;\r")
    assert "42" in terminal.until(r"(?s)1 row in .*1 row in .*mobula> ")


def test_a_line_says_how_far_a_statement_is(terminal):
    for line in SLOW.splitlines():
        terminal.type(line + "\r")
    terminal.until("done")
    terminal.run("SET mobula.udf_batch_rows = 1;")
    terminal.type("SELECT sum(slow(value)) FROM generate_series(1, 100000);\r")
    terminal.until(r"\d+ s: [\d,]+ rows, [\d.]+ \w+ into slow; limited by slow \(\d+ at work\)")
    # Ctrl-C ends the statement and not the shell, and the line is gone.
    terminal.type("\x03")
    terminal.until("error: .*cancelled")
    assert "42" in terminal.run("SELECT 42;")


def test_the_same_on_a_server(tmp_path, start):
    terminal = Terminal(tmp_path, "--connect", start().address("clients"))
    try:
        terminal.type("SELECT count(*) FROM system.exec\t;\r")
        assert "1" in terminal.until("1 row")
    finally:
        terminal.close()
