"""Regular expressions that a hostile text cannot stall: RE2, whose time is linear in the text.

Lookaround, backreferences and repeats beyond 1,000 are what RE2 cannot express. Running those with a backtracking
engine would let an argument of 4 KiB hold the sensor up for minutes (`a*a*(?=b)` already takes cubic time), so a rule
that needs one does not fire, and says so. pySigma and SigmaHQ hold rules to RE2 as well. It is loaded for the first
rule that has an expression: 3 MB, and 2 microseconds a search where `re` takes 1.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable


class RegexError(ValueError):
    """No engine understands the expression."""


class BeyondRe2Error(RegexError):
    """Only a backtracking engine understands the expression."""


def compile_regex(
    pattern: str, flags: str = "", *, from_start: bool = False, to_end: bool = False
) -> Callable[[str], bool]:
    """A test of whether the expression is found in a text; raises RegexError or BeyondRe2Error."""
    import re2  # type: ignore[import-untyped]  # noqa: PLC0415 (3 MB that many rule sets need not pay)

    options = re2.Options()
    options.log_errors = False
    inline = f"(?{flags})" if flags else ""
    whole = r"\A" * from_start + f"{inline}(?:{pattern})" + r"\z" * to_end
    try:
        found = re2.compile(whole.encode("utf-8", "surrogatepass"), options).search
    except re2.error as error:
        raise _refusal(pattern, error.args[0]) from None
    return lambda text: found(text.encode("utf-8", "surrogatepass")) is not None


def compile_backtracking(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """`re.compile` without its warnings, which are for who wrote the program, not the pattern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(pattern, flags)


def _refusal(pattern: str, reason: str | bytes) -> RegexError:
    try:
        compile_backtracking(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return RegexError(f"regular expression {pattern!r} is invalid: {error}")
    why = reason.decode(errors="backslashreplace") if isinstance(reason, bytes) else reason
    return BeyondRe2Error(f"regular expression {pattern!r} is beyond RE2 ({why})")
