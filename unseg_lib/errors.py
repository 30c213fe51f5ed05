"""The one exception that people see."""


class UnsegError(Exception):
    """Something the user can mend, in one sentence: what was expected, what was found, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def no_access(error: OSError, path: object = None) -> str:
    """The sentence for a path that the system refuses; `path` where the error names none."""
    where = error.filename or path
    return f"Expected access to {where}, found none ({error.strerror}); check its name and permissions."


def first_line(error: Exception) -> str:
    """What another library's error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


MOST = 40  # names that a sentence can hold


def closest(name: str, known: list[str]) -> str:
    """Say which of `known` was probably meant by `name`, for the end of an error sentence."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"{hint}Known: {', '.join(known[:MOST])}{more}."


def pick(registry: dict, name: str, what: str):
    """Look `name` up in a registry; an unknown name lists the known ones."""
    if name not in registry:
        raise UnsegError(f"Unknown {what} '{name}'; {closest(name, sorted(registry))}")
    return registry[name]
