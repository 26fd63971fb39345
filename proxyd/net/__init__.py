"""Floor 4: one kind of I/O each. Nothing here knows the policy or decides anything.

resolver   a name -> every address and the CNAME chain, or DnsError
nameserver one question to one name server, over UDP, TCP or TLS
turns      fair turns at what there is not enough of
dialer     an Allow -> a connection to one of its addresses, or DialError
parent     the same through a parent proxy, and in no other way
identity   which local account owns the other end of a connection
certificate  what a server shows to TLS clients
tls        a client's TLS, as a stream with two halves
listening  sockets that listen, one for each worker
wire       one side of HTTP/1.1 on a stream: framing checked, then h11
stream     a TCP connection as a trio stream that asks the kernel first
tunnels    all established tunnels of a worker, in one epoll set
pipes      kernel pipes on loan, for splice(2)
deadlines  ends of silence for very many at once
relay      two streams joined into a tunnel: where the pool cannot be
confinement  a process in a network of its own, for `exec`
notify     the service manager told how it goes
access     who may do what with a file
firewall   whether this host lets accounts out by rule
probe      a proxy asked as a client would, for `validate`
host       facts of this machine: its addresses, its resolvers, its limit of files
"""
