"""Floor 6: where the floors meet. It puts the judge, the wire, the resolver, the dialer and the audit in order.

    session    one client connection, first byte to last
    exchange   one request: judged, recorded, dialled, answered
    forward    one plain request and its response, side by side
    kept       the origin connection that one client connection keeps between two requests
    trail      the two audit records of one request
    seams      what a session is given from outside: plain callables, so that a test passes functions
    drain      the end announced
    crowd      who makes room when all places are taken
    current    the policy as it stands now
    judge      `decide`, remembered while that stands
    listener   connections accepted
    visit      one client's connection, and the place it has
    identify   who asks
    keyring    who knows his password
    refused    that a request is not served, and why
    ledger     what is used of the limits, shared by all workers
    opening    the ClientHello of a tunnel, heard before the origin is
    case       a case that was decided, to be decided again
    revocation what a new policy would refuse is cut
    log        the audit log in use
    complaints what the operator must know and the audit log cannot say
    worker     one process that serves: listeners inside, sessions outside, signals, drain
    __main__   a worker's beginning
    handover   what a worker is given: the very bytes of the policy
    given      what a worker was given, taken up
    orders     what a worker is told later
    channel    between the supervisor and a worker
    supervisor the parent: keeps the listeners and the workers, and changes the policy
    charge     what it has in its charge
    service    what the service manager is told, and when
    crew       the workers, started and started again
    ears       signals and the control socket, in one wait
    control    the control socket: `proxyd reload`
    admin      the admin listener: metrics and health
    pages      what is to be had there

No rule of judgement lives here: `proxyd.policy.verdict.decide` has them all.
"""
