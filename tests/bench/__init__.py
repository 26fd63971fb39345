"""The bench: what the proxy costs, side by side with the same work done straight to the origin.

    python -m tests.bench [--seconds 3] [--rounds 3]

Root, or an ordinary account that may make user namespaces; `cc` builds load.c, both ends of the load.

    __main__     the run: its own network, the origin, rounds, the end of everything
    contenders   who is measured: a name, how it is started, where it is asked
    works        what is measured: each work once through one contender
    report       the table, the machine, the raw results (results/, not in git)
    load.c       load generator and origin

Nothing here asserts on time. Wrong octets, refusals and broken connections are counted and shown, and make the exit
status 1: so a run with `--seconds 0.2 --rounds 1` is a smoke test.
"""
