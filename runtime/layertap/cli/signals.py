"""The signals that end a command: each raises `KeyboardInterrupt`, so temporary files are removed.

Some extension modules turn the exception into an `ImportError` while they are imported, so the
signals that came are kept as well.
"""

from __future__ import annotations


class _Ended(KeyboardInterrupt):
    """A class of its own: if code that an import runs lets a `KeyboardInterrupt` itself through,
    Python ends the process by SIGINT at exit, whatever the exit code (`run_eval_code_obj`)."""


class Signals:
    """The handler of Ctrl-C, SIGTERM and SIGHUP while a command runs."""

    raises_interrupt = True
    """`layertap._engine.stopping` looks for it."""

    def __init__(self) -> None:
        # The module behind `signal`, whose import takes longer than `layertap layers` may.
        import _signal  # type: ignore[import-not-found]

        self.seen: list[int] = []
        """The numbers of the signals that came."""
        self._signal = _signal
        self._taken: list[int] = []

    def take(self) -> None:
        """Handle the signals, except those that the caller ignores (`nohup`)."""
        defaults = (self._signal.SIG_DFL, self._signal.default_int_handler)
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            number = getattr(self._signal, name, None)
            if number and self._signal.getsignal(number) in defaults:
                self._taken.append(number)
                self._signal.signal(number, self)

    def __call__(self, number: int, _: object) -> None:
        self.seen.append(number)
        if number != self._signal.SIGINT:
            for one in self._taken:  # the next one must not stop the cleaning up
                if one != self._signal.SIGINT:
                    self._signal.signal(one, self._signal.SIG_IGN)
        raise _Ended

    def give_back(self) -> None:
        """Let a signal end the process: the command has ended, and nothing is left to remove."""
        for number in self._taken:
            self._signal.signal(number, self._signal.SIG_DFL)
