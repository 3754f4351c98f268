"""What went wrong, in the form the engine reads.

User code runs only inside `run`, which marks what it raises. The worker's own
frames, in files named `<mobula …>`, never reach a user.
"""

import contextlib
import os
import traceback

from . import limits

MESSAGE_CHARS_MAX = 2000
TRACEBACK_CHARS_MAX = 32 * 1024
# Called for the state of a keyed actor, not for a block.
_STATE = ("snapshot", "restore")
# Shown instead of acted upon.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
# What must not wait for user code, which may take long: called before it is.
first = []
# Whose body the file of a function's code is, where it is not its own.
owners = {}
# Files of a client whose code came by value: the Python package adds them when it unpacks
# code, and tells `linecache` their lines.
carried = set()


class Raised(Exception):
    """User code raised `error`."""

    def __init__(self, error, function):
        # Not its text: user code makes that as well.
        super().__init__()
        self.error = error
        self.function = function


class Refused(Exception):
    """What user code is or returned does not fit its declaration.

    The text continues a sentence that starts with the function.
    """


class TooMany(Exception):
    """More rows failed than may; `last` reports the one too many."""

    def __init__(self, last):
        super().__init__()
        self.last = last


class RowTooLarge(Exception):
    """One row of a result needs more bytes than a frame may have."""

    def __init__(self, count):
        super().__init__(f"{count} bytes")
        self.count = count


@contextlib.contextmanager
def of_function(function):
    """What fails inside is this function's doing, unless it says whose."""
    try:
        yield
    except BaseException as error:
        if getattr(error, "mobula_function", None) is None:
            error.mobula_function = getattr(error, "function", function)
        raise


def run(function, code, *args, **kwargs):
    """Calls user code on behalf of the SQL function named `function`."""
    while first:
        first.pop()()
    try:
        return code(*args, **kwargs)
    except (Raised, Refused):
        # Said by a call inside this one.
        raise
    except BaseException as error:
        raise Raised(error, function) from None


def report(error):
    """The body of ERROR for an exception caught by the worker."""
    return _said(error) | {"function": getattr(error, "mobula_function", None)}


def _said(error):
    if isinstance(error, Raised):
        return _raised(error.error, source_name(error.function))
    if isinstance(error, MemoryError) or not isinstance(error, Exception):
        # Beside user code, for what it was given or gave.
        return _raised(error, None)
    if isinstance(error, Refused):
        return _body("refused", str(error), None)
    if isinstance(error, TooMany):
        return error.last | {"reason": "too_many"}
    if isinstance(error, RowTooLarge):
        return _body("row_too_large", str(error), None) | {"bytes": error.count}
    text = "".join(traceback.format_exception(error))
    return _body("internal", f"{type(error).__name__}: {error}", text)


def type_of(error):
    """The name of what was raised: `ValueError`, `json.decoder.JSONDecodeError`."""
    if not isinstance(error, Raised):
        return "Refused"
    kind = type(error.error)
    # The body of a function is a module of its own, with a number.
    inside = kind.__module__ in ("builtins", "__main__") or kind.__module__.startswith("mobula_function")
    return kind.__qualname__ if inside else f"{kind.__module__}.{kind.__qualname__}"


def source_name(function):
    """The file name that a function's body has in tracebacks."""
    return f"<function {owners.get(function, function)}>"


def _raised(error, source):
    shown = traceback.TracebackException(type(error), error, error.__traceback__)
    _leave_out_worker(shown)
    message = type(error).__name__
    text = " ".join(text_of(error)[: 4 * MESSAGE_CHARS_MAX].split())
    if text:
        message += f": {text}"
    said = [_user_line(error, shown, source), getattr(error, "__mobula_note__", None), limits.note(error)]
    said = [text for text in said if isinstance(text, str)]
    if said:
        message = message[:MESSAGE_CHARS_MAX] + f" ({'; '.join(said)})"
    return _body("raised", message, "".join(shown.format()))


def text_of(error):
    """What an exception says, in lines of its own."""
    try:
        return str(error.msg if isinstance(error, SyntaxError) else error)
    except BaseException as broken:
        return f"its text cannot be read: {type(broken).__name__}"


def _user_line(error, shown, source):
    """The innermost line of the body, `line 3: return a / b`, or of a file that came with it,
    `train.py, line 3: return a / b`, and whether it is called for a keyed actor's state."""
    number = text = None
    place = ""
    within = next((f"in {f.name}(), " for f in shown.stack if f.filename == source and f.name in _STATE), "")
    if isinstance(error, SyntaxError) and error.filename == source:
        number, text = error.lineno, error.text
    else:
        for frame in shown.stack:
            if frame.filename == source or frame.filename in carried:
                number, text = frame.lineno, frame.line
                place = "" if frame.filename == source else os.path.basename(frame.filename) + ", "
    if number is None:
        return None
    text = (text or "").strip()
    return f"{within}{place}line {number}: {text}" if text else f"{within}{place}line {number}"


def _leave_out_worker(shown, depth=0):
    if shown is None or depth > 20:
        return
    frames = [frame for frame in shown.stack if not frame.filename.startswith("<mobula")]
    shown.stack = traceback.StackSummary.from_list(frames)
    for inner in (shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())):
        _leave_out_worker(inner, depth + 1)


def _body(reason, message, text):
    return {
        "reason": reason,
        "message": _sendable(message, MESSAGE_CHARS_MAX + 500),
        "traceback": _sendable(text, TRACEBACK_CHARS_MAX) if text else None,
    }


def _sendable(text, limit):
    # Lone surrogates are Python's alone. A NUL would end the text for some clients.
    text = text.encode("utf-8", "replace").decode().translate(_CONTROLS)
    return text if len(text) <= limit else text[: limit // 2] + " … " + text[-limit // 2 :]
