"""Floor 2: HTTP as a proxy must mean it. Pure: nothing here awaits, reads a socket or knows a policy.

framing    what h11 reads leniently is refused first: line ends, folds, lengths, chunks
request    an h11.Request -> what is asked of us, read one way only
fields     header fields as they leave us: hop-by-hop, Via, identity, trailers
proxy_status  whose refusal it is
credential what Proxy-Authorization shows
client_hello  the name that TLS begins with
refusal    a Reason -> status, Proxy-Status and problem document
"""
