"""Floor 4: one kind of I/O each. Nothing here knows the policy or decides anything.

resolver   a name -> every address and the CNAME chain, or DnsError
dialer     an Allow -> a connection to one of its addresses, or DialError
wire       one side of HTTP/1.1 on a stream: framing checked, then h11
relay      two streams joined into a tunnel, half-closes and idleness included
host       facts of this machine: its addresses, its resolvers, its limit of files
"""
