"""The bench: what the proxy costs, side by side with its peers and with the same work done straight to the origin.

    python -m tests.bench [--seconds 3] [--rounds 3] [--only proxyd,squid] [--smokescreen FILE] [--markdown]

Root, or an ordinary account that may make user namespaces; `cc` builds both ends of the load. Peers take part where
their programs are in PATH: squid, traffic_server and tinyproxy (Debian), mitmdump, proxy and pproxy (PyPI: mitmproxy,
proxy.py, pproxy; each in a virtualenv of its own), and smokescreen, where its program is given.

    __main__     the run: its own network, the origin, rounds, the end of everything
    contenders   what a contender is: a command, an address, its processes
    peers        who contends, and how each is set up
    ground       the network it happens in, and the load program
    names        the one name that is resolved, and where
    works        what is measured: each work once through one contender
    report       the tables, the machine, the raw results (results/, not in git)
    load.c       load generator; origin.c, the origin; both.h, what they share

Nothing here asserts on time. Wrong octets, refusals and broken connections are counted and shown ("!"); ours, proxyd's
or without any proxy, make the exit status 1: so a run with `--seconds 0.2 --rounds 1` is a smoke test. A short run
opens fewer idle tunnels and sends smaller bodies; the table says how many and how large.
"""
