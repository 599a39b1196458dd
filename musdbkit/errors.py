"""The errors this package raises on purpose.

Each message says which file or track it is about, what was found, what was expected and what to do.
The command line prints it as one line and exits with status 1.
"""


class MusdbkitError(Exception):
    """Root of all errors raised on purpose."""


class ParameterError(MusdbkitError, ValueError):
    """An argument has a value that cannot be used."""


class DatasetError(MusdbkitError):
    """A folder does not hold the tracks or files that were looked for."""


class AudioError(MusdbkitError):
    """An audio file cannot be read or written, or its content is not what its container says.

    Attributes
    ----------
    code : what kind of fault it is: `missing`, `unreadable`, `channels`, `rate`, `length` or `unwritable`.
    stem : the stem whose stream it is in, empty where it is the whole file.
    """

    def __init__(self, message: str, code: str = "unreadable", stem: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.stem = stem


class MissingDependencyError(MusdbkitError, ImportError):
    """A package that this function needs is not installed."""


def printable(text: object) -> str:
    """Return `text` on one line, with control characters written as escapes, so that no name can forge output."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
