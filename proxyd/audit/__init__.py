"""Floor 3: the audit trail. It records; it decides nothing.

record     the Record: what may be said of a request, and nothing else
    schema     its published JSON Schema
render     a Record as one line, for a machine or for a terminal
outlet     a descriptor to write to without ever waiting
reader     the log read back
summary    the log in one pass: what was asked for, refused and slow
    sketch     counting in constant memory
sink       lines written where they survive, or SinkError
"""
