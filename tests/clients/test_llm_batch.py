"""`examples/llm_batch` against a stand-in for an OpenAI-compatible server: what comes out, how
many requests are on their way, what is asked again, and who waits for whom."""

import asyncio
import json
import pathlib
import threading
import time

import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/llm_batch/llm_batch.sql"


class StandIn:
    """Answers `x` with `X`, after 20 ms. A prompt says what else is to happen:

    `busy x`: 429 the first time, to come again after a second; `bad x`: 400;
    `slow x`: after 5 s; `dead x`: never; `cut x`: the connection breaks the first time.
    """

    def __init__(self):
        self.seen = {}
        self.keys, self.models = set(), set()
        self.connections = self.now = self.most = 0
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    def run(self):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.client, "127.0.0.1", 0))
        self.url = "http://127.0.0.1:{}/v1".format(server.sockets[0].getsockname()[1])
        self.ready.set()
        self.loop.run_forever()
        server.close()
        clients = asyncio.all_tasks(self.loop)
        for client in clients:
            client.cancel()
        self.loop.run_until_complete(asyncio.gather(*clients, return_exceptions=True))
        self.loop.close()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    async def client(self, reader, writer):
        self.connections += 1
        try:
            while await self.request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # It is gone, or the test is over.
        finally:
            writer.close()

    async def request(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert head[0] == "POST /v1/chat/completions HTTP/1.1", head
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.keys.add(headers.get("authorization"))
        self.models.add(body["model"])
        prompt = body["messages"][-1]["content"]
        times = self.seen.setdefault(prompt, [])
        times.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.respond(reader, writer, prompt, len(times))
        finally:
            self.now -= 1

    async def respond(self, reader, writer, prompt, time_of_asking):
        what = prompt.split()[0]
        if what == "dead":
            # Until the client is gone.
            await reader.read(1)
            return False
        await asyncio.sleep(5 if what == "slow" else 0.02)
        if what == "cut" and time_of_asking == 1:
            return False
        if what == "busy" and time_of_asking == 1:
            self.send(writer, "429 Too Many Requests", {"error": "slow down"}, "Retry-After: 1\r\n")
        elif what == "bad":
            self.send(writer, "400 Bad Request", {"error": "no such thing"})
        else:
            choice = {"message": {"role": "assistant", "content": prompt.upper()}}
            self.send(writer, "200 OK", {"choices": [choice]}, chunked=len(prompt) % 2 == 0)
        await writer.drain()
        return True

    def send(self, writer, status, body, headers="", chunked=False):
        text = json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status}\r\n{headers}".encode())
        if chunked:
            pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (text[:7], text[7:]))
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
        else:
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(text), text))


@pytest.fixture
def stand_in():
    stand_in = StandIn()
    yield stand_in
    stand_in.stop()


@pytest.fixture(params=[0, 2], ids=["alone", "cluster"])
def cursor(request, start):
    server = start(executors=request.param, env={"OPENAI_API_KEY": "a-key"})
    with server.connect() as connection, connection.cursor() as cursor:
        # As `mobula sql -f` does; a client sends statements one by one.
        cursor.execute(EXAMPLE.read_text().rstrip().removesuffix(";"))
        yield cursor


def completed(stand_in, prompts, options="", function="complete"):
    """The example's query over prompts, one for each `n` from 1 on."""
    return (
        f"SELECT n, complete FROM map(TABLE(SELECT n, prompt FROM {prompts}),"
        f" {function}(url => '{stand_in.url}', model => 'stand-in'), preserve_order => false{options})"
    )


def prompts(count, special=""):
    """`special`: more WHENs, for some n."""
    return f"(SELECT value AS n, CASE {special} WHEN true THEN 'say ' || value END AS prompt FROM generate_series(1, {count}))"


def rows(cursor, sql):
    cursor.execute(sql)
    return dict(cursor.fetchall())


def test_every_prompt_has_its_answer_over_few_connections(cursor, stand_in):
    found = rows(cursor, completed(stand_in, prompts(1000)))
    assert found == {n: f"SAY {n}" for n in range(1, 1001)}
    assert 32 < stand_in.most <= 64
    assert stand_in.connections <= 64
    assert (stand_in.keys, stand_in.models) == ({"bearer a-key"}, {"stand-in"})
    # As the call says it.
    stand_in.most = 0
    assert len(rows(cursor, completed(stand_in, prompts(100), ", max_in_flight => 5"))) == 100
    assert stand_in.most == 5


def test_two_workers_share_the_rate(cursor, stand_in):
    began = time.monotonic()
    found = rows(cursor, completed(stand_in, prompts(80), ", rate_limit => 40, concurrency => 2"))
    assert len(found) == 80
    # 80 rows at 40 a second; each may make up for 50 ms.
    assert time.monotonic() - began > 1.8


def test_who_is_busy_is_asked_again_when_it_says(cursor, stand_in):
    special = "WHEN value % 50 = 0 THEN 'busy ' || value WHEN value % 50 = 1 THEN 'cut ' || value"
    found = rows(cursor, completed(stand_in, prompts(200, special)))
    assert len(found) == 200
    assert found[50] == "BUSY 50" and found[51] == "CUT 51" and found[52] == "SAY 52"
    busy = [times for prompt, times in stand_in.seen.items() if prompt.startswith("busy")]
    cut = [times for prompt, times in stand_in.seen.items() if prompt.startswith("cut")]
    assert [len(times) for times in busy + cut] == [2] * 8
    assert all(second - first >= 1 for first, second in busy), busy
    others = [times for prompt, times in stand_in.seen.items() if prompt.startswith("say")]
    assert all(len(times) == 1 for times in others)


def test_what_cannot_be_answered_is_listed(cursor, stand_in):
    special = "WHEN value = 3 THEN 'bad ' || value WHEN value = 7 THEN 'dead ' || value"
    options = ", timeout => '300ms', max_retries => 1, on_error => 'dead_letter'"
    found = rows(cursor, completed(stand_in, prompts(100, special), options))
    assert found == {n: f"SAY {n}" for n in range(1, 101) if n not in (3, 7)}
    assert (len(stand_in.seen["bad 3"]), len(stand_in.seen["dead 7"])) == (1, 2)
    cursor.execute("SELECT error_type, message, row FROM system.errors ORDER BY error_type")
    late, bad = cursor.fetchall()
    assert late[0] == "TimeoutError" and "no result within 0.3 s" in late[1]
    assert "given up after 2 calls" in late[1] and '"n":7' in late[2]
    assert bad[0] == "ValueError" and "400" in bad[1] and "no such thing" in bad[1]


def test_a_prompt_that_takes_long_delays_nobody_else(cursor, stand_in):
    # Warm, so that a start is not counted.
    assert len(rows(cursor, completed(stand_in, prompts(10)))) == 10
    began, came = time.monotonic(), []
    cursor.execute(completed(stand_in, prompts(2000, "WHEN value = 5 THEN 'slow ' || value")))
    for batch in cursor.fetch_record_batch():
        came += [(n, time.monotonic() - began) for n in batch.column(0).to_pylist()]
    assert len({n for n, _ in came}) == len(came) == 2000
    assert came[-1][0] == 5 and came[-1][1] >= 5
    # The others took their time and no more: 2,000 × 20 ms ÷ 64 are 0.63 s.
    assert max(when for n, when in came if n != 5) < 4


def test_an_expression_keeps_the_order(cursor, stand_in):
    # Its defaults name another server: declared anew for this one.
    text = EXAMPLE.read_text().rstrip().removesuffix(";")
    cursor.execute(text.replace("http://127.0.0.1:8000/v1", stand_in.url))
    cursor.execute("SELECT complete('hello ' || value) FROM generate_series(1, 100)")
    assert sorted(row[0] for row in cursor.fetchall()) == sorted(f"HELLO {n}" for n in range(1, 101))
    assert stand_in.most > 4


def test_a_client_that_goes_takes_its_requests_along(cursor, stand_in):
    cursor.execute(completed(stand_in, prompts(100, "WHEN value > 90 THEN 'dead ' || value")))
    reader = cursor.fetch_record_batch()
    reader.read_next_batch()
    until(lambda: stand_in.now == 10)
    reader.close()
    cursor.close()
    until(lambda: stand_in.now == 0)


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
