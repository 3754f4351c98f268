"""The worker's life: one request at a time until the engine is gone."""

import collections.abc
import contextlib
import faulthandler
import os
import signal
import sys
import time

import pyarrow as pa
import pyarrow.compute as pc

from . import context, limits, protocol
from .ahead import Ahead
from .arguments import prepare, scalar_arguments, table_argument
from .chain import Chain
from .failure import RowTooLarge, Refused, of_function, owners, report, run
from .given import Changing, Keeping, batches_of_rows, truths
from .isolation import Failures, isolated_column, isolated_parts, own
from .methods import described
from .overlap import Runner, within_loop
from .protocol import Channel
from .results import to_batches, to_column
from .retry import Retrying, begin
from .rows import rows_of_rows, values_of_rows
from .source import Source
from .state import Keeper


class Call:
    """A loaded function: the code to run and the schemas around it."""

    def __init__(self, body, input, output, instance):
        self.function = body["function"]
        self.method = body["method"]
        if self.method is None:
            self.source = Source(self.function, body["body"], body["params"], body["table"])
        else:
            self.source = instance.source
            owners[self.function] = self.source.owner
        self.asks = context.may_be_asked(self.source.text)
        self.table = body["table"]
        self.batch_size = body["batch_size"]
        self.batch_format = body["batch_format"]
        self.zero_copy = body["zero_copy"]
        self.strict = body["strict"]
        self.mode = body["mode"]
        self.by_row = self.mode not in ("batches", "groups")
        self.is_async = body["overlap"] is not None
        if self.method is None and self.is_async != self.source.is_async:
            raise Refused("is async in one process and not in another. Say `async def` without conditions")
        self.takes_table = body["takes_table"]
        self.on_error = body["on_error"]
        self.bisect = body["bisect"]
        self.takes = body["takes"]
        self.input, self.output = input, output
        # Of what is no relation.
        self.kind_out = None if self.table else output.field(0).type
        self.changing = None if self.table else Changing.of(self.kind_out)
        # Of whole rows it is asked as Python asks; a BOOLEAN of values is SQL's.
        self.says_truth = self.mode == "filter" and self.takes_table
        gives = "truth" if self.says_truth else self.mode if self.by_row else None
        in_rows = gives is None and self.table and self.batch_format == "rows"
        self.keeping = Keeping(output, self.table, "flat_map" if in_rows else gives)
        _refuse_twice(self.input.names if self.takes_table else [])
        if not self.by_row:
            prepare(self.batch_format)
        if self.method is not None:
            self.code = run(self.function, getattr, instance.object, self.method)
        elif self.source.is_class:
            self.code = self._instance(body["args"])
        else:
            self.code = self.source.object
        # Whether the next part of what it gave last may be made in the memory of the one before.
        self.yields = False
        # A batch and what user code is called with for it, if made ahead.
        self.made = None
        # Of a keyed call: how often it tells its state.
        self.tells = body["keyed"]
        self.keeper = self._keeper(instance) if self.tells else None
        if self.is_async:
            self._overlap(body["retry"], **body["overlap"])
        elif body["retry"]:
            self.code = Retrying(self.code, self.keeping.rows if self.by_row else None, *body["retry"])

    def _keeper(self, instance):
        """A named actor has one state for all its methods."""
        if self.method is None:
            return Keeper(self.source, self.function, self.code)
        if instance.keeper is None:
            instance.keeper = Keeper(instance.source, self.function, instance.object)
        return instance.keeper

    def _instance(self, args):
        if self.is_async:
            return within_loop(lambda: _built(self.source, args))
        return _built(self.source, args)

    def _overlap(self, retry, max_in_flight, rate_limit, timeout_s, alive_s, ordered):
        """How many of its calls run at a time, see `overlap`."""
        self.max_in_flight, self.rate_limit, self.ordered = max_in_flight, rate_limit, ordered
        self.timeout_s, self.alive_s = timeout_s, alive_s
        # Time is counted for each call alone.
        self.retrying = Retrying(self.code, None, *retry[:2], None) if retry else None

    @property
    def kind(self):
        return self.source.kind

    def forget(self):
        """Its module is gone from here on, unless it is the instance's."""
        if self.method is None:
            self.source.forget()

    def take_retries(self):
        """How often user code was called again for the block that is done."""
        return self.code.end_block() if isinstance(self.code, Retrying) else 0

    def failures(self, limit):
        """Where rows that fail are told; None where the first one ends the call."""
        if self.on_error == "raise":
            return None
        return Failures(limit, self.on_error == "dead_letter")

    def outputs(self, block, failures):
        """Blocks of the output schema, as they come."""
        self.source.show()
        if isinstance(self.code, Retrying):
            self.code.begin_block()
        if not self.table:
            yield self._column(block, failures)
            return
        for start, batch in self.batches(block):
            parts = self.parts(batch) if failures is None else isolated_parts(self, batch, start, failures)
            for part in parts:
                if part.num_rows:
                    yield part

    def parts(self, batch):
        """What a batch becomes."""
        if self.by_row:
            return rows_of_rows(self.function, self.code, batch, self.mode, self.output)
        arguments = self.arguments(batch)
        begin(self.code, lambda _: self.arguments(batch))
        value = run(self.function, self.code, *arguments)
        self.yields = isinstance(value, collections.abc.Iterator)
        made = batches_of_rows if self.batch_format == "rows" else to_batches
        return made(self.function, value, self.output)

    def _column(self, block, failures):
        nulls = _rows_with_null(block) if self.strict else None
        if nulls is not None:
            valid = pc.invert(nulls)
            block = block.filter(valid)
            if failures is not None:
                failures.places = pc.indices_nonzero(valid).to_pylist()
        if failures is None and self.is_one_batch(block):
            context.at(0)
            column = self.piece(block, self.kind_out)
        else:
            column = self._column_of_batches(block, failures)
        if nulls is not None:
            column = _spread(column, nulls)
        return pa.RecordBatch.from_arrays([column], schema=self.output)

    def _column_of_batches(self, block, failures):
        kind = self.kind_out
        if failures is None:
            pieces = (self.piece(batch, kind) for _, batch in self.batches(block))
        else:
            pieces = (isolated_column(self, batch, kind, start, failures) for start, batch in self.batches(block))
        if block.num_rows > (self.batch_size or block.num_rows):
            # The function may write to what it returned as soon as it is called again.
            pieces = map(own, pieces)
        pieces = list(pieces)
        if len(pieces) == 1:
            return pieces[0]
        return pa.concat_arrays(pieces) if pieces else pa.array([], type=kind)

    def is_one_batch(self, block):
        """Whether user code gets all of it at once."""
        return self.mode != "groups" and 0 < block.num_rows <= (self.batch_size or block.num_rows)

    def piece(self, batch, kind):
        """The values of a batch's rows."""
        if self.by_row:
            values = values_of_rows(self.function, self.code, batch, self.takes_table, kind, self.changing)
            if self.says_truth:
                values = run(self.function, truths, values)
            return to_column(values, batch.num_rows, kind, True)
        arguments = self.arguments(batch)
        begin(self.code, lambda _: self.arguments(batch))
        value = run(self.function, self.code, *arguments)
        return to_column(value, batch.num_rows, kind, bool(arguments))

    def arguments(self, batch):
        """What it is called with for a batch or a group: what is made ahead once, for user
        code may write to it."""
        if self.made is not None and self.made[0] is batch:
            made, self.made = self.made[1], None
            return made
        if self.table:
            return (table_argument(batch, self.batch_format, self.zero_copy),)
        return scalar_arguments(batch, self.batch_format, self.zero_copy)

    def arguments_ahead(self, block):
        """The arguments for a block that is one batch, or None."""
        if self.by_row or self.is_async or not self.is_one_batch(block):
            return None
        return self.arguments(block)

    @staticmethod
    def rows_with_null(block):
        """A mask of the rows with a NULL in any column, or None if there is none."""
        return _rows_with_null(block)

    def batches(self, block):
        """With the first row of each."""
        for start, batch in _groups(block) if self.mode == "groups" else self._slices(block):
            context.at(start)
            yield start, batch

    def _slices(self, block):
        rows = self.batch_size or block.num_rows
        for start in range(0, block.num_rows, rows or 1):
            yield start, block if rows >= block.num_rows else block.slice(start, rows)


class Instance:
    """The named actor that this process is."""

    def __init__(self, actor, args, **source):
        self.source = Source(**source, owner=actor)
        self.object = _built(self.source, args)
        # Of its state, once it is called by key.
        self.keeper = None


class Worker:
    """The calls this process has loaded, and the named actor that it is, if so."""

    def __init__(self, channel):
        self.channel = channel
        self.calls = {}
        self.instance = None
        # Of async functions, once there is one.
        self.runner = None
        self.ahead = Ahead(channel, self._prepare)
        self.last_ns = 0

    def receive(self):
        """The next request, or None when the engine is gone."""
        return self.channel.receive() if self.runner is None else self.runner.receive()

    def answer(self, frame):
        # Most are.
        if frame.kind == protocol.PROCESS:
            call = self.calls[frame.body["call"]]
            try:
                self._process(call, frame)
            finally:
                self.ahead.end()
                call.made = None
        elif frame.kind == protocol.INIT:
            self.channel.inline_bytes = frame.body["inline_bytes"]
            if frame.body["memory_bytes"]:
                # Does not count for it: a forked worker has that from its zygote.
                warm()
            limits.bind(frame.body["memory_bytes"], frame.body["memory_by"])
            pa.set_cpu_count(frame.body["threads"])
        elif frame.kind == protocol.DESCRIBE:
            source = Source(*(frame.body[key] for key in ("function", "body", "params", "table")))
            source.forget()
            told = described(source.object) if frame.body["methods"] and source.is_class else []
            self._ready(frame, source, methods=told)
        elif frame.kind == protocol.BUILD:
            warm()
            self.instance = Instance(**frame.body)
            self._ready(frame, self.instance.source)
        elif frame.kind == protocol.LOAD:
            warm()
            for call in frame.body["forget"]:
                self.calls.pop(call).forget()
            call = _load(frame.body, frame.payload, self.instance)
            if call.is_async and self.runner is None:
                self.runner = Runner(self.channel)
            self.calls[frame.body["call"]] = call
            self._ready(frame, call, keeps_state=call.keeper is not None and call.keeper.keeps_state)
        elif frame.kind == protocol.RESTORE:
            call = self.calls[frame.body["call"]]
            call.keeper.take(frame.body["generation"], frame.body["more"], frame.payload)
            self._ready(frame, call)
        elif frame.kind == protocol.CANCEL:
            if self.runner is not None:
                self.runner.cancel(frame.seq)
        else:
            raise ValueError(f"unknown frame kind {frame.kind}")

    def _ready(self, frame, code, **more):
        self.channel.send(protocol.READY, frame.seq, {"object": code.kind} | more)

    def _process(self, call, frame):
        self.channel.note(frame.seq)
        spent = 0
        since = time.perf_counter_ns()
        block = self._block(call, frame)
        failures = call.failures(frame.body["max_errors"])
        named = frame.body.get("block")
        if call.is_async:
            self.runner.begin(call, frame.seq, block, failures, named)
            return
        context.begin(named, call.asks)
        if self.runner is None:
            # The event loop listens by itself, and would not know of what another thread read.
            self.ahead.begin(self.last_ns)
        output = None
        for output in call.outputs(block, failures):
            spent += time.perf_counter_ns() - since
            if failures is not None:
                self._send_failures(frame.seq, failures)
            self._send_block(frame.seq, output)
            since = time.perf_counter_ns()
        state = call.keeper.seen(_bytes_of(frame), *call.tells) if call.keeper is not None else None
        spent += time.perf_counter_ns() - since
        if failures is not None:
            self._send_failures(frame.seq, failures)
        if state is not None:
            self.channel.send_snapshot(frame.seq, call.keeper.generation, state)
            state = None
        # With its last answer the engine gets the block's memory back, unless user
        # code keeps some of it.
        block = output = frame.payload = frame.part = call.made = None
        context.end()
        self.last_ns = spent
        # A runner listens by itself, and would not know that answers wait; and a block that
        # took long has used the time that its answer may take.
        more = frame.more and self.runner is None and spent < protocol.KEEP_NS
        # Others may wait for what a named actor says, states go in order, and rows that fail are
        # told at once.
        can_defer = call.keeper is None and self.instance is None and failures is None
        can_defer = can_defer and self.ahead.can_send(spent)
        self.channel.send_done(frame.seq, spent // 1000, call.take_retries(), more, can_defer)

    @staticmethod
    def _block(call, frame):
        """The block of a request; if it is made ahead, so are its arguments."""
        made, frame.made = frame.made, None
        if made is None or made[0] is not call:
            return _read(call, frame)
        call.made = made[1:]
        return made[1]

    def _prepare(self, frame):
        """Makes the block of a request and its arguments, in whatever thread this is."""
        call = self.calls.get(frame.body["call"])
        if not isinstance(call, Call):
            return
        # What goes wrong does so again where it is told.
        with contextlib.suppress(BaseException):
            block = _read(call, frame)
            arguments = call.arguments_ahead(block)
            frame.made = None if arguments is None else (call, block, arguments)

    def _send_failures(self, seq, failures):
        """Told before the rows that come without them."""
        for body in failures.take():
            self.channel.send(protocol.FAILED, seq, body)

    def _send_block(self, seq, block):
        """Sends a block, halved until the halves fit a frame."""
        try:
            self._send_fitting(seq, block)
        except pa.ArrowException as error:
            # The engine looks at all values; this is where not even a copy is possible.
            text = " ".join(str(error).split())
            raise Refused(f"returned a block that is not valid: {text}") from None

    def _send_fitting(self, seq, block):
        size = pa.ipc.get_record_batch_size(block)
        if size <= self.channel.payload_bytes_max():
            self.channel.send_block(protocol.OUTPUT, seq, block, size)
        elif block.num_rows <= 1:
            raise RowTooLarge(size)
        else:
            half = block.num_rows // 2
            self._send_fitting(seq, block.slice(0, half))
            self._send_fitting(seq, block.slice(half))


def _bytes_of(frame):
    """Of its block, about, if it came together with others."""
    if frame.part is None:
        return frame.payload.size
    together, _, count = frame.part
    return frame.payload.size * count // max(together.rows.num_rows, 1)


def _read(call, frame):
    """The block of a request."""
    if frame.part is None:
        return pa.ipc.read_record_batch(frame.payload, call.input)
    together, start, count = frame.part
    return together.block(call.input, start, count)


def serve(sock):
    pa.set_cpu_count(1)
    # On this signal: where every thread is, even in the middle of C code.
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True, chain=False)
    channel = Channel(sock)
    after = channel.after_fork
    os.register_at_fork(before=channel.before_fork, after_in_parent=after, after_in_child=after)
    worker = Worker(channel)
    standard = {0: os.open(os.devnull, os.O_RDONLY), 1: os.dup(1), 2: os.dup(2)}
    while True:
        try:
            frame = worker.receive()
            if frame is None or frame.kind == protocol.SHUTDOWN:
                return
            try:
                worker.answer(frame)
            except BaseException as error:
                if isinstance(error, (BrokenPipeError, ConnectionResetError)):
                    raise
                channel.send(protocol.ERROR, frame.seq, report(error))
            if not frame.more:
                _open_again(standard)
            frame = None
        except (BrokenPipeError, ConnectionResetError):
            return


def _open_again(standard):
    """User code may have closed what the next function prints to."""
    for number, copy in standard.items():
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(copy, number)


def warm():
    """Imports now what the first call would import."""
    # pyarrow imports pandas, where there is one, with the first array that it
    # makes. That is start-up: no call's deadline should pay for it.
    pa.array([], type=pa.int8())
    # With its first bytes its pool reserves room for many, which is none of user code's.
    pa.allocate_buffer(1)


def _load(body, payload, instance):
    """What answers the blocks of a LOAD: one function, or a chain of several."""
    place = 0

    def schema(size):
        nonlocal place
        place += size
        return _schema(payload.slice(place - size, size))

    input = schema(body["input_schema_bytes"])
    steps = []
    for step in body["steps"]:
        schemas = [schema(size) for size in step["schema_bytes"]]
        with of_function(step["function"]):
            steps.append(Call(step, *schemas, instance))
    return steps[0] if len(steps) == 1 else Chain(steps, input)


def _built(source, args):
    args = {name: _literal(kind, text) for name, kind, text in args}
    return run(source.owner, source.object, **args)


def _schema(message):
    try:
        return pa.ipc.read_schema(message)
    except pa.ArrowNotImplementedError as error:
        raise Refused(f"has a column of a type that pyarrow does not know: {error}") from None


def _groups(block):
    """The last column says where groups start; user code does not see it."""
    starts = pc.indices_nonzero(block.column(block.num_columns - 1)).to_pylist()
    block = block.select(range(block.num_columns - 1))
    for start, end in zip(starts, [*starts[1:], block.num_rows]):
        yield start, block.slice(start, end - start)


def _refuse_twice(names):
    for name in names:
        if names.count(name) > 1:
            raise Refused(f'gets two columns named "{name}". Rename one with AS')


def _literal(kind, text):
    if kind == "null":
        return None
    return {"bool": lambda text: text == "true", "int": int, "float": float, "text": str}[kind](text)


def _rows_with_null(block):
    """A mask of the rows with a NULL in any column, or None if there is none."""
    mask = None
    for column in block.columns:
        if column.null_count:
            nulls = column.is_null()
            mask = nulls if mask is None else pc.or_(mask, nulls)
    return mask


def _spread(column, nulls):
    """Puts NULL where `nulls` says so and the column's values elsewhere."""
    places = pc.cumulative_sum(pc.invert(nulls).cast(pa.int64()))
    places = pc.subtract(places, 1)
    return column.take(pc.if_else(nulls, pa.scalar(None, pa.int64()), places))
