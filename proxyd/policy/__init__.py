"""Floor 1: the judge. Pure: nothing here reads a socket, a clock, a file or the environment.

address    host:port and http:// targets, read one way only -> Destination
embedded   the IPv4 addresses that an IPv6 address carries
ranges     networks compiled into something that answers in a microsecond
special    the special-purpose table: addresses, names and ports nobody reaches by default
names      host patterns, matched label by label
text       text from outside made safe to show
shape      how one TOML value becomes one typed value, or a problem with a way out
model      the policy, frozen
load       TOML files -> Policy, or every problem at once
schema     the policy file's JSON Schema, from the same model
verdict    decide: Allow, Deny or NEED_ADDRESSES
"""
