"""Faults of everything that proxyd leans on, each with what is expected of it, against the real daemon.

`pytest tests/faults` is the short form, `--long` the long one. Each fault is done to a daemon inside an `ordeal`
(`ordeal.py`), which holds what must hold whatever breaks:

    others      a bystander asks on fresh and on kept connections, uses a tunnel, and tries what is denied, all through
                the fault: it is served as ever, unless the fault takes from everybody; then what it is told is stated
    walls       nothing arrives at protected addresses
    books       each request has one decision record and one closing record, and the bystander's are all there
    bounds      no worker grows beyond what is stated
    recovery    the same processes serve on, and let go of what they held for the fault: files and tasks are as before

Who does it to what: lying (and lies, delivery) are nameservers; difficult, origins and clients; small_disk, log_faults
and collector, what is done to the log, errands and written what must come of it; faulty, calls that fail; routes, ways
that are not there; patrons and victims, clients beside the bystander; rush and census, load and who counts it.
"""
