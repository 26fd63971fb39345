"""Other people's HTTP parsers, run as real origins and real clients, to see where each thinks that a message ends.

messages                 one request, read strictly: what proxyd sent, and what an origin says that it saw
tap                      between proxyd and an origin: keeps the octets, and adds a request behind each message
stage                    a client, proxyd, the tap and an origin in a row, and what each of them tells
program                  somebody's server as a foreground process
recorder                 llhttp through httptools, as an origin, and as what stands behind gateways
nginx, apache, haproxy   each in front of a recorder, which sees exactly the requests that they made out
node                     llhttp as Node.js uses it, as an origin and as a client
answers                  a client's octets, read by h11 and by llhttp
ambiguous                requests that two parsers could read in two ways
odd_responses            the same for responses
"""
