"""Floor 6: where the floors meet. It puts the judge, the wire, the resolver, the dialer and the audit in order.

    session    one client connection, first byte to last
    exchange   one request: judged, recorded, dialled, answered
    forward    one plain request and its response, side by side
    kept       the origin connection that one client connection keeps between two requests
    trail      the two audit records of one request
    seams      what a session is given from outside: plain callables, so that a test passes functions
    drain      the end announced
    current    the policy as it stands now
    judge      `decide`, remembered while that stands
    listener   connections accepted
    complaints what the operator must know and the audit log cannot say
    worker     one process that serves: listeners inside, sessions outside, signals, drain
    __main__   a worker's beginning
    handover   what a worker is given: the very bytes of the policy
    supervisor the parent: holds the listeners, starts workers, starts them again

No rule of judgement lives here: `proxyd.policy.verdict.decide` has them all.
"""
