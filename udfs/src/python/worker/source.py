"""A function's body: compiled, the object in it found and its signature checked.

The text is known to `linecache`, so tracebacks show the user's own lines.
"""

import inspect
import linecache
import sys
import textwrap
import types

from .failure import Refused, run, source_name

_count = 0


class Source:
    """A compiled body and the one object it defines.

    `owner`: what errors and tracebacks name, if not the function.
    """

    def __init__(self, function, body, params, table, owner=None):
        self.function = function
        self.owner = owner or function
        self.file = source_name(self.owner)
        self.text = _dedented(body)
        self.lines = self.text.splitlines(keepends=True)
        self.module = self._execute()
        try:
            self.object = self._find()
            self._check(params, table)
        except BaseException:
            self.forget()
            raise

    @property
    def is_class(self):
        return inspect.isclass(self.object)

    @property
    def kind(self):
        """What READY calls the object."""
        kind = "class" if self.is_class else "function"
        return f"async_{kind}" if self.is_async else kind

    def show(self):
        """Makes this text the one that tracebacks show under its name."""
        linecache.cache[self.file] = (len(self.text), None, self.lines, self.file)

    def forget(self):
        sys.modules.pop(self.module.__name__, None)

    def _execute(self):
        global _count
        self.show()
        code = run(self.owner, compile, self.text, self.file, "exec", dont_inherit=True)
        _count += 1
        # Registered, so that dataclasses and pickle work in the body.
        module = types.ModuleType(f"mobula_function_{_count}")
        sys.modules[module.__name__] = module
        try:
            run(self.owner, exec, code, module.__dict__)
        except BaseException:
            sys.modules.pop(module.__name__, None)
            raise
        return module

    def _find(self):
        names = vars(self.module)
        if callable(names.get(self.function)):
            return names[self.function]
        own = {name: value for name, value in names.items() if self._is_own(name, value)}
        # SQL made the name lower case.
        alike = [value for name, value in own.items() if name.lower() == self.function.lower()]
        if len(alike) == 1:
            return alike[0]
        if len(own) == 1:
            return next(iter(own.values()))
        if not own:
            raise Refused(f"has a body that defines neither a def nor a class. Define one named {self.function}")
        listed = ", ".join(own)
        raise Refused(f"has a body that defines {listed}, but none is named {self.function}. Name one so")

    def _is_own(self, name, value):
        kind = inspect.isfunction(value) or inspect.isclass(value)
        return kind and not name.startswith("_") and value.__module__ == self.module.__name__

    def _check(self, params, table):
        code = self.object
        if self.is_class:
            if not any("__call__" in vars(base) for base in code.__mro__):
                raise Refused(f"is the class {code.__name__} without a method __call__. Add one that takes {_count_of(params)}")
            code = code.__call__
        yields = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
        self.is_async = inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code)
        if yields and not table:
            raise Refused("yields, but returns one value a row. Return an array, or declare a TABLE parameter and RETURNS TABLE")
        try:
            found = list(inspect.signature(code).parameters.values())
        except (TypeError, ValueError):
            # Written in C: it will tell when called.
            return
        _check_signature(params, found[1:] if self.is_class else found)


def _check_signature(declared, found):
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    any_number = any(p.kind == p.VAR_POSITIONAL for p in found)
    needed = [p for p in positional if p.default is p.empty]
    keywords = [p.name for p in found if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    names = ", ".join(p.name for p in found)
    if keywords:
        raise Refused(f"has a Python parameter {keywords[0]} that needs a keyword, but arguments are given by position")
    too_few = len(declared) < len(needed)
    too_many = len(declared) > len(positional) and not any_number
    if too_few or too_many:
        raise Refused(
            f"is declared with {_count_of(declared)} ({', '.join(declared)}),"
            f" but its Python code takes {len(needed) if too_few else len(positional)} ({names})"
        )
    for place, (name, parameter) in enumerate(zip(declared, positional)):
        lower = [p.name.lower() for p in positional]
        if parameter.name.lower() != name.lower() and name.lower() in lower:
            raise Refused(
                f"declares {name} as parameter {place + 1} of ({', '.join(declared)}),"
                f" but its Python code has ({names}): arguments are given by position"
            )


def _count_of(params):
    return "1 parameter" if len(params) == 1 else f"{len(params)} parameters"


def _dedented(body):
    """Bodies may be indented as a whole; line numbers stay."""
    first = next((line for line in body.splitlines() if line.strip()), "")
    return textwrap.dedent(body) if first[:1].isspace() else body
