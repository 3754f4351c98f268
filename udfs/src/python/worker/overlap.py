"""Functions that wait: many of their calls run at a time, on one event loop.

The loop runs in this thread while there is nothing to hear; each word of the engine
stops it for as long as it takes to answer. A block is cut into items: rows, batches or
groups. As many items are in flight as may be, of whatever blocks, and begin no faster
than they should. What is finished goes out at once, a few items together, with the rows
that it is for; or, where rows keep their order, with the whole block.
"""

import collections
import inspect
import itertools
import time

import pyarrow as pa
import pyarrow.compute as pc

from . import context, protocol
from .failure import Raised, Refused, RowTooLarge, report, run
from .given import batches_of_rows
from .isolation import converted_groups, converted_values, own, own_batch, raise_if_not_a_rows, row_of_nulls
from .results import to_batches, to_column
from .rows import check_made, row_arguments

# What finishes within this time goes out together: a frame costs both sides more.
GATHER_S = 0.002
# A row that begins late for its rate may be made up for, so many seconds at most.
CATCH_UP_S = 0.05
# A call that was cancelled for being late and has not ended after so many seconds is left.
LEFT_AFTER_S = 1.0
# With more of them a worker ends: each may hold a connection.
LEFT_MAX = 256

_loop = None


def loop():
    """The event loop of this process."""
    global _loop, asyncio
    if _loop is None:
        # Takes a tenth of a second: only for those who need it.
        import asyncio

        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop


def within_loop(code):
    """What `code` gives, called where a running loop is to be found, as by libraries
    that are set up in a constructor."""

    async def called():
        return code()

    return loop().run_until_complete(called())


class Item:
    """What one call of user code is for: some rows of a block."""

    __slots__ = ("rows", "batch", "args")

    def __init__(self, rows, batch, args=None):
        self.rows = rows
        self.batch = batch
        self.args = args

    def arguments(self, call):
        """Made anew, but for those there are: the call before may have changed them."""
        args, self.args = self.args, None
        if args is not None:
            return args
        if call.by_row:
            return tuple(column[0] for column in row_arguments(self.batch, call.takes_table))
        return call.arguments(self.batch)


class Block:
    """A block of which some items are not finished."""

    def __init__(self, seq, call, failures, rows, named):
        self.seq = seq
        # What it is called, for user code that asks.
        self.named = named
        self.call = call
        self.failures = failures
        self.rows = rows
        self.tasks = set()
        # Items that are finished and not sent: their rows, and what was made.
        self.made = []
        # Rows of these that the engine does not know of, where it gets them later.
        self.untold = []
        # Items that are not finished.
        self.left = 0
        self.is_over = False

    def items(self):
        """The items to call user code for; those without are finished here."""
        call, rows = self.call, self.rows
        places = range(rows.num_rows)
        nulls = call.rows_with_null(rows) if call.strict else None
        if nulls is not None:
            self._finish_nulls(pc.indices_nonzero(nulls).to_pylist())
            places = pc.indices_nonzero(pc.invert(nulls)).to_pylist()
            rows = rows.take(pa.array(places, type=pa.int64()))
        made = self._rows(rows, places) if call.by_row else self._batches(rows, places)
        self.left = len(made)
        return made

    def _finish_nulls(self, rows):
        if self.call.by_row:
            self.made.extend(((row,), None) for row in rows)
        else:
            self.made.append((rows, pa.nulls(len(rows), self.call.output.field(0).type)))

    def _rows(self, rows, places):
        call = self.call
        try:
            columns = row_arguments(rows, call.takes_table)
        except Refused:
            if self.failures is None:
                raise
            # Each finds out for itself.
            return [Item((row,), rows.slice(at, 1)) for at, row in enumerate(places)]
        args = zip(*columns) if columns else itertools.repeat(())
        return [Item((row,), rows.slice(at, 1), given) for (at, row), given in zip(enumerate(places), args)]

    def _batches(self, rows, places):
        cut = self.call.batches(rows)
        return [Item(places[start : start + batch.num_rows], batch) for start, batch in cut]

    def missing(self, item):
        """What stands for an item that failed."""
        call = self.call
        if call.table:
            return row_of_nulls(call) if call.by_row else []
        return None if call.by_row else pa.nulls(len(item.rows), call.output.field(0).type)

    def take(self):
        """The rows of what is finished and not sent, and blocks of what was made."""
        call, failures, made = self.call, self.failures, self.made
        self.made = []
        if call.ordered:
            made.sort(key=lambda item: item[0][0])
        rows = [int(row) for item, _ in made for row in item]
        if failures is not None and call.by_row:
            failures.places = rows
        try:
            values = [value for _, value in made]
            outputs = self._rows_made(values) if call.table else [self._column(values)]
        finally:
            if failures is not None:
                failures.places = None
        return rows, outputs

    def _column(self, values):
        call, kind = self.call, self.call.output.field(0).type
        if not call.by_row:
            array = pa.concat_arrays(values) if values else pa.nulls(0, kind)
        elif self.failures is None:
            array = to_column(values, len(values), kind, True)
        else:
            array = converted_values(values, kind, 0, self.failures) if values else pa.nulls(0, kind)
        return pa.RecordBatch.from_arrays([array], schema=call.output)

    def _rows_made(self, values):
        call = self.call
        if not call.by_row:
            return [part for parts in values for part in parts]
        if self.failures is not None:
            return converted_groups(call, list(enumerate(values)), self.failures) if values else []
        return batches_of_rows(call.function, [row for rows in values for row in rows], call.output)


class Runner:
    """The blocks of this worker that are in flight, and the loop that they are on."""

    def __init__(self, channel):
        self.channel = channel
        self.loop = loop()
        self.loop.add_reader(channel.sock, self._hear)
        self.blocks = {}
        self.waiting = collections.deque()
        self.running = 0
        # When the next row may begin, where there is a rate.
        self.next_at = 0.0
        self.timer = None
        # Blocks with something to send.
        self.ready = {}
        self.sending = None
        self.alive = None
        self.retries = 0
        # Calls that did not end when they were cancelled.
        self.left = set()
        # Since when something is in flight, as far as it is not told.
        self.busy_since = None
        self.broken = None

    def receive(self):
        """The next request, or None when the engine is gone; meanwhile the loop runs."""
        while not self.channel.waiting and self.broken is None:
            self.loop.run_forever()
        if self.broken is not None:
            raise self.broken
        return self.channel.waiting.popleft()

    def begin(self, call, seq, rows, failures, named):
        """Takes a block; its answers come as it runs."""
        call.source.show()
        block = Block(seq, call, failures, rows, named)
        items = block.items()
        self.blocks[seq] = block
        self.waiting.extend((block, item) for item in items)
        self._tell_alive(call)
        self._finished(block)
        self._start()

    def cancel(self, seq):
        """Nobody waits for a block any more."""
        block = self.blocks.get(seq)
        if block is not None:
            self._end(block)
            self.channel.send_done(seq, self._busy_us(), self._taken_retries())

    def _hear(self):
        try:
            self.channel.hear()
        except Exception as error:
            self.broken = error
        if self.channel.waiting or self.broken is not None:
            self.loop.stop()

    def _start(self):
        """Begins what may be in flight now."""
        while self.waiting:
            block, item = self.waiting[0]
            if block.is_over:
                self.waiting.popleft()
                continue
            if len(self.left) > LEFT_MAX:
                # The engine starts another worker, which has none of them.
                raise SystemExit(f"{len(self.left)} calls go on after their time: they catch their cancellation")
            if self.running >= block.call.max_in_flight or not self._may_begin(block.call, len(item.rows)):
                return
            self.waiting.popleft()
            if not self.running:
                self.busy_since = time.perf_counter_ns()
            self.running += 1
            task = self.loop.create_task(self._run(block, item))
            block.tasks.add(task)
            task.add_done_callback(lambda task, block=block: self._ended(block, task))

    def _ended(self, block, task):
        """Also of what was cancelled before it began."""
        block.tasks.discard(task)
        self.running -= 1
        self._start()

    def _may_begin(self, call, rows):
        """Whether the rate lets so many rows begin; if not yet, it will be tried again."""
        if call.rate_limit is None:
            return True
        now = self.loop.time()
        if now < self.next_at:
            if self.timer is None:
                self.timer = self.loop.call_at(self.next_at, self._on_time)
            return False
        self.next_at = max(self.next_at, now - CATCH_UP_S) + rows / call.rate_limit
        return True

    def _on_time(self):
        self.timer = None
        self._start()

    async def _run(self, block, item):
        """One item, from its call to its end."""
        context.begin_task(block.named, item.rows[0])
        try:
            try:
                value = await self._made(block.call, item)
            except BaseException as error:
                if not block.is_over:
                    self._failed(block, item, error)
            else:
                self._add(block, item, value)
        except Exception as error:
            self.broken = error
            self.loop.stop()

    async def _made(self, call, item):
        for attempt in itertools.count():
            args = item.arguments(call)
            try:
                value = await _timed(_awaited(call.code(*args), call.keeping), call.timeout_s, self.left)
                break
            except asyncio.CancelledError as error:
                raise Raised(error, call.function) from None
            except Exception as error:
                wait = None if call.retrying is None else call.retrying.wait_s(error, attempt)
                if wait is None:
                    raise Raised(error, call.function) from None
            except BaseException as error:
                raise Raised(error, call.function) from None
            self.retries += 1
            await asyncio.sleep(wait)
            while not self._may_begin(call, len(item.rows)):
                await asyncio.sleep(max(0, self.next_at - self.loop.time()))
        return _shaped(call, value, len(item.rows), bool(args))

    def _add(self, block, item, value):
        block.made.append((item.rows, value))
        if block.call.ordered:
            block.untold.extend(map(int, item.rows))
        block.left -= 1
        self._finished(block)

    def _failed(self, block, item, error):
        """What becomes of an item that failed: as in `isolation`."""
        try:
            if block.failures is None or not isinstance(error, (Raised, Refused)):
                raise error
            raise_if_not_a_rows(error)
            if len(item.rows) > 1 and block.call.bisect and block.call.mode == "batches":
                half = len(item.rows) // 2
                first = Item(item.rows[:half], item.batch.slice(0, half))
                second = Item(item.rows[half:], item.batch.slice(half))
                block.left += 1
                self.waiting.extendleft([(block, second), (block, first)])
                return
            for row in item.rows:
                block.failures.add(row, error)
        except BaseException as error:
            self._fail(block, error)
            return
        self._add(block, item, block.missing(item))

    def _finished(self, block):
        """Sends what is finished of a block, if it is time."""
        if block.left == 0:
            self._send(block)
            return
        if block.made:
            self.ready[block.seq] = block
            if self.sending is None:
                self.sending = self.loop.call_later(GATHER_S, self._send_ready)

    def _send_ready(self):
        self.sending = None
        ready, self.ready = self.ready, {}
        for block in ready.values():
            if block.is_over:
                continue
            if block.call.ordered:
                rows, block.untold = block.untold, []
                self.channel.send(protocol.PART, block.seq, {"rows": rows})
            elif block.made:
                self._send(block)

    def _send(self, block):
        try:
            rows, outputs = block.take()
            outputs = list(outputs)
            for body in block.failures.take() if block.failures is not None else ():
                self.channel.send(protocol.FAILED, block.seq, body)
            for output in outputs:
                self._send_output(block.seq, output)
            if not block.call.ordered and rows:
                self.channel.send(protocol.PART, block.seq, {"rows": rows})
            if block.left == 0:
                self._end(block)
                self.channel.send_done(block.seq, self._busy_us(), self._taken_retries())
        except (BrokenPipeError, ConnectionResetError) as error:
            self.broken = error
            self.loop.stop()
        except Exception as error:
            self._fail(block, error)

    def _send_output(self, seq, output):
        """Halved until the halves fit a frame; never in a slot, whose give and take is
        made for one block after the other."""
        if not output.num_rows:
            return
        size = pa.ipc.get_record_batch_size(output)
        if size <= self.channel.payload_bytes_max():
            self.channel.send_inline(protocol.OUTPUT, seq, output)
        elif output.num_rows == 1:
            raise RowTooLarge(size)
        else:
            half = output.num_rows // 2
            self._send_output(seq, output.slice(0, half))
            self._send_output(seq, output.slice(half))

    def _fail(self, block, error):
        """The block is over; the others go on."""
        self._end(block)
        self.channel.send(protocol.ERROR, block.seq, report(error))

    def _end(self, block):
        block.is_over = True
        self.blocks.pop(block.seq, None)
        self.ready.pop(block.seq, None)
        current = asyncio.current_task(self.loop)
        for task in block.tasks:
            if task is not current:
                task.cancel()

    def _tell_alive(self, call):
        """Tells the engine now and then that the loop turns, if it wants to know."""
        if call.alive_s is None or self.alive is not None or not self.blocks:
            return

        def tell():
            self.alive = None
            try:
                if self.blocks:
                    self.channel.send(protocol.ALIVE, 0, {})
            except OSError as error:
                self.broken = error
                self.loop.stop()
            self._tell_alive(call)

        self.alive = self.loop.call_later(call.alive_s, tell)

    def _busy_us(self):
        """The time in which something was in flight, since this was asked last."""
        now = time.perf_counter_ns()
        since, self.busy_since = self.busy_since, now if self.running else None
        return 0 if since is None else (now - since) // 1000

    def _taken_retries(self):
        retries, self.retries = self.retries, 0
        return retries


async def _timed(made, seconds, left):
    """What comes of a call, if it comes in time.

    A call that is late is cancelled. One that catches that and goes on is left to itself: it has a
    task of its own, for which nobody waits any more, and is in `left` until it ends.
    """
    if seconds is None:
        return await made
    task, is_late = asyncio.ensure_future(_caught(made)), False
    # Nobody may ask for what it raises.
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    try:
        if not await _has_ended(task, seconds):
            is_late = True
            task.cancel()
            if not await _has_ended(task, LEFT_AFTER_S):
                left.add(task)
                task.add_done_callback(left.discard)
                raise TimeoutError(f"no result within {seconds:g} s, and it goes on: it catches its cancellation")
    except asyncio.CancelledError:
        task.cancel()
        raise
    try:
        value, ends = task.result()
    except asyncio.CancelledError as error:
        if not is_late:
            raise
        # Where it was waiting.
        raise TimeoutError(f"no result within {seconds:g} s").with_traceback(error.__traceback__) from None
    if ends is not None:
        raise ends
    return value


async def _has_ended(task, seconds):
    ended, _ = await asyncio.wait((task,), timeout=seconds)
    return bool(ended)


async def _caught(made):
    """What comes of a call, and what would end the process: a task lets that out of the loop."""
    try:
        return await made, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


async def _awaited(made, keeping):
    """What comes of a call, in memory of its own: others run before it is converted."""
    if inspect.isasyncgen(made):
        return [keeping.part(part) async for part in made]
    return keeping.made(await made)


def _shaped(call, value, rows, has_params):
    """The value of an item as it waits to be sent."""
    if call.by_row:
        if not call.table:
            return value
        if call.mode == "map":
            return [value]
        check_made(value)
        return run(call.function, call.keeping.rows, value)
    if not call.table:
        return own(to_column(value, rows, call.output.field(0).type, has_params))
    if call.batch_format == "rows":
        return list(batches_of_rows(call.function, value, call.output))
    return [own_batch(part) for part in to_batches(call.function, value, call.output)]
