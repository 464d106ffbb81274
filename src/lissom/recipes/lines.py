"""On which line each key of a TOML text is set, so that an error can name it."""

import re
from collections.abc import Iterator

Location = tuple[str | int, ...]

TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
      | (?P<quoted>\"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\])*" | '[^']*')
      | (?P<newline>\n)
      | (?P<mark>[\[\]{},=.])
      | (?P<bare>[^\s\[\]{},=.\#"']+)""",
    re.VERBOSE | re.DOTALL,
)


def line_numbers(text: str) -> dict[Location, int]:
    """The line of each key, table and entry of an array, by its path: ("penalties", 0, "L1") → 12.

    Args:
        text: valid TOML. `tomllib` reads it but does not tell where it found what.
    """
    reader = _Reader(text)
    here: Location = ()
    while reader.tokens:
        if reader.accept("\n"):
            continue
        if reader.accept("["):
            here = reader.header()
        else:
            reader.pair(here)
    return reader.lines


class _Reader:
    """Takes tokens from the front of a text and notes where keys are set."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Location, int] = {}
        self.tokens: list[tuple[str, int]] = []  # the next one last
        self._last: dict[Location, int] = {}  # index of the last entry of each [[array]]
        line = 1
        for found in TOKEN.finditer(text):
            if found.lastgroup != "comment":
                self.tokens.append((found[0], line))
            line += found[0].count("\n")
        self.tokens.reverse()

    def accept(self, token: str) -> bool:
        """Take the next token if it is this one."""
        if self.tokens and self.tokens[-1][0] == token:
            self.tokens.pop()
            return True
        return False

    def header(self) -> Location:
        """[table] or [[array]], after its first bracket; returns the path of what follows."""
        path: Location = ()
        line, entry = self.tokens[-1][1], self.accept("[")
        keys = self._key()
        for i, key in enumerate(keys):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if entry and i == len(keys) - 1:
                self._last[path] = self._last.get(path, -1) + 1
            if path in self._last:
                path = (*path, self._last[path])
                self.lines.setdefault(path, line)
        self.accept("]")
        self.accept("]")
        return path

    def pair(self, here: Location) -> None:
        """Take key = value."""
        line = self.tokens[-1][1]
        for key in self._key():
            here = (*here, key)
            self.lines.setdefault(here, line)
        self.accept("=")
        self._value(here)

    def _key(self) -> list[str]:
        keys = [self.tokens.pop()[0]]
        while self.accept("."):
            keys.append(self.tokens.pop()[0])
        return [key[1:-1] if key[0] in "\"'" else key for key in keys]

    def _value(self, path: Location) -> None:
        if self.accept("["):
            for i in self._items("]"):
                self.lines.setdefault((*path, i), self.tokens[-1][1])
                self._value((*path, i))
        elif self.accept("{"):
            for _ in self._items("}"):
                self.pair(path)
        else:
            while self.tokens and self.tokens[-1][0] not in ("\n", ",", "]", "}"):
                self.tokens.pop()

    def _items(self, end: str) -> Iterator[int]:
        """Count the items up to a closing bracket; the caller takes each."""
        i = 0
        while True:
            while self.accept("\n") or self.accept(","):
                pass
            if self.accept(end) or not self.tokens:
                return
            yield i
            i += 1
