"""Regular expressions that a hostile text cannot stall.

RE2 runs in time linear in the text, and pySigma needs it anyway; it costs 3 MB, so it is loaded for the first rule
that has an expression. What RE2 cannot express (lookaround, backreferences) falls back to Python's `re`, but only
where its structure rules out exponential time: at most two repeats, and none within another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

_PYTHON_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}
_MOST_REPEATS = 2


class RegexError(ValueError):
    """No engine understands the expression."""


class SlowRegexError(RegexError):
    """Only a backtracking engine understands the expression, and a hostile text could stall it."""


def compile_regex(
    pattern: str, flags: str = "", *, from_start: bool = False, to_end: bool = False
) -> Callable[[str], bool]:
    """A test of whether the expression is found in a text; raises RegexError or SlowRegexError."""
    import re2  # type: ignore[import-untyped]  # noqa: PLC0415 (costs 3 MB that most rule sets need not pay)

    options = re2.Options()
    options.log_errors = False
    linear = f"(?{flags})" * bool(flags) + f"(?:{pattern})"
    linear = r"\A" * from_start + linear + r"\z" * to_end
    try:
        found = re2.compile(linear.encode("utf-8", "surrogatepass"), options).search
    except re2.error:
        return _compile_backtracking(pattern, flags, from_start, to_end)
    return lambda text: found(text.encode("utf-8", "surrogatepass")) is not None


def _compile_backtracking(pattern: str, flags: str, from_start: bool, to_end: bool) -> Callable[[str], bool]:
    whole = rf"(?:{pattern})\Z" if to_end else pattern
    try:
        compiled = re.compile(whole, sum(_PYTHON_FLAGS[flag] for flag in flags))
    except (re.error, RecursionError, OverflowError) as error:
        raise RegexError(f"regular expression {pattern!r} is invalid: {error}") from None
    parser: Any = getattr(re, "_parser", None) or re.sre_parse  # type: ignore[attr-defined]
    if _variable_repeats(parser.parse(pattern)) > _MOST_REPEATS:
        raise SlowRegexError(
            f"regular expression {pattern!r} needs a backtracking engine, which a hostile text could stall"
        )
    found = compiled.match if from_start else compiled.search
    return lambda text: found(text) is not None


def _variable_repeats(tree: Any, *, inside: bool = False) -> int:
    """How many repeats can run to several lengths; one such, or a choice, within a repeat is one too many."""
    count = 0
    for operation, argument in tree:
        name = str(operation)
        repeats = name.endswith("_REPEAT") and argument[1] > 1
        variable = repeats and argument[0] != argument[1]
        if inside and (variable or name == "BRANCH"):
            return _MOST_REPEATS + 1
        count += variable
        for part in _subpatterns(argument):
            count += _variable_repeats(part, inside=inside or repeats)
    return count


def _subpatterns(argument: Any) -> Iterator[Any]:
    if hasattr(argument, "data"):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for part in argument:
            yield from _subpatterns(part)
