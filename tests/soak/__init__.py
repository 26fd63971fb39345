"""The soak: what a long time, many at once and those who dawdle do to a running proxyd, and to its other clients.

    python -m tests.soak [--minutes 10] [--clients 50] [--tunnels 8000] [--lorises 2000] [--rounds 3] [--picture FILE]

Needs what the bench needs (`tests/bench`): root or user namespaces, and `cc`. Three parts, against one daemon with a
worker for each core, all checks and its audit log on; its files, tasks and memory are sampled twice a second:

    held     so many tunnels stand; on some there is traffic, and beside them all other work goes on
    rate     so many clients at full rate for so long, each kind of work in turns, with the percentiles of each turn
    lorises  so many connections send a head octet by octet, and come again when cut off; what that costs others

    __main__  the run: its parts, a table, what went wrong
    parts     what is done in each, and what must hold of it
    stand     the daemon, the load, and who watches the daemon
    lorises   a program: the slow ones
    slope     whether memory grows
    picture   all samples, as an SVG

The exit status is 1 if an operation failed, a record is missing, files or tasks are not let go of, or memory grows
beyond noise. Speed decides nothing.
"""
