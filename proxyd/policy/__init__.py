"""Floor 1: the judge. Pure: nothing here reads a socket, a clock, a file or the environment.

address    host:port and http:// targets, read one way only -> Destination
embedded   the IPv4 addresses that an IPv6 address carries
ranges     networks compiled into something that answers in a microsecond
special    the special-purpose table: addresses, names and ports nobody reaches by default
names      host patterns, matched label by label
text       text from outside made safe to show
shape      how one TOML value becomes one typed value, or a problem with a way out
rows       what is refused, allowed, permitted and tested
client     who may use the proxy, and what is different for them
password   scrypt hashes, as the PHC format spells them
dns        how names are resolved
listen     where proxyd listens
admin      where metrics and health are asked for
model      the policy, frozen
load       TOML files -> Policy, or every problem at once
contradictions  what no single key can see, and the policy's own tests
finding    what an audit says: an id, a severity, what, why, and how to mend it
lint       what its author may not have meant
lint_rows  the same of its rows
lint_clients  the same of its clients
written    the line on which a row is written
diff       what is different between two policies, in the words of the file
places     addresses, cut where policies can tell them apart, and what IPv6 addresses carry
atoms      names, ports and addresses, cut where policies can tell them apart
learn      what an allowlist would need for what was asked for
remedy     the smallest change that would allow what is denied
reach      what clients reach
peers      who is which client before and after a change
doors      who can connect to one [listen] and not to another
compare    what a change opens or closes, for whom
snapshot   a policy on one day and one host, compiled for lookup
limits     token buckets and counts
schema     the policy file's JSON Schema, from the same model
verdict    decide: Allow, Deny or NEED_ADDRESSES
"""
