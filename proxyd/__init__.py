"""proxyd: a filtering HTTP/1.1 forward proxy, the egress boundary of an AI agent.

This docstring is the map. The package is built in floors, and imports go only downward
(`tests/test_floors.py` holds that):

    7  proxyd.cli      one module a command; holds no logic that a floor below should hold
    6  proxyd.serve    session (one client, first byte to last) · listener · worker · supervisor: where the floors meet
    5  proxyd.observe  what shows what was recorded: metrics, the report; decides nothing, dials nowhere
    4  proxyd.net      one kind of I/O each: resolver, dialer, stream, wire, tunnels, relay, host; knows no policy
    3  proxyd.audit    the Record, its schema, its sink, its reader; decides nothing
    2  proxyd.http     pure: what a message means, what is passed on, how a refusal is spelt
    1  proxyd.policy   pure: addresses, the special-purpose table, the policy file, `decide`

Five ideas carry it. The decision is one pure function, `proxyd.policy.verdict.decide`. The `Allow` it mints
is the only thing `proxyd.net.dialer` will connect to. Every log line derives from one `proxyd.audit.record.Record`,
written before the dial: no audit, no connection. Tunnels cost no task: once they stand they live in one pool,
`proxyd.net.tunnels`. And nothing that is missing, zero or broken means "allow".
"""

__version__ = "0.1.0"
