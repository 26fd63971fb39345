"""The command `proxyd`, which is `python -m proxyd` too. Only that an interrupt may come early is seen to here."""

import signal
import sys


def start() -> int:
    """Load the command line, and run it; the exit status.

    While modules are loaded, nothing has begun that an interrupt would have to clear up: it ends the process, as it
    does in any other program, and without a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from proxyd.cli import main  # noqa: PLC0415 - takes a fifth of a second

    signal.signal(signal.SIGINT, handler)
    return main()


if __name__ == "__main__":
    sys.exit(start())
