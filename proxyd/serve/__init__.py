"""Floor 6: where the floors meet. It puts the judge, the wire, the resolver, the dialer and the audit in order.

    session    one client connection, first byte to last
    exchange   one request: judged, recorded, dialled, answered
    forward    one plain request and its response, side by side
    trail      the two audit records of one request
    seams      what a session is given from outside: plain callables, so that a test passes functions
    drain      the end announced
    current    the policy as it stands now
    listener   sockets bound, connections accepted
    complaints what the operator must know and the audit log cannot say
    daemon     listeners inside, sessions outside, signals, drain

No rule of judgement lives here: `proxyd.policy.verdict.decide` has them all.
"""
