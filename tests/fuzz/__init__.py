"""Fuzzing of everything that reads what strangers send.

    python -m tests.fuzz [--seconds 60 | --runs N] [--only NAME,…] [--jobs 2] [--keep FOLDER] [--markdown]

Each target states its invariant as code, and says of each input what came of it, so that a run can be held to have
reached more than refusals. `pytest tests/fuzz` tries the seeds, inputs that hypothesis makes, and a short guided run of
each; the command above is the long form: it guides by coverage (atheris, libFuzzer), then plays what it kept to
coverage.py for the figures in the README.

    __main__     the long form: targets side by side, a table, and what broke
    target       what a target is
    targets/     one file a target: the request's target, the policy, the ClientHello, answers of DNS, …
    guided       one target in a process of its own, under atheris
    reached      what a corpus reaches: outcomes, lines and branches

    scripts      whole connections as octets; conversations, the seeds; town, where they happen; playing, in memory on a
                 kernel of ours (`kernel`); crowd, on real sockets
    books        what must balance in the end: what clients heard and what is on record; framed, what origins were sent
    by_the_book  a second reader of messages; strict, readers by others; scripted, peers that say everything at once
    screen       what a command shows

What once broke something stays as a seed, under a name that says what it was.
"""
