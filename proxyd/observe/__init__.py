"""Floor 5: what shows what was recorded. It decides nothing and dials nowhere; everything here derives from records.

tally      records counted, in memory that all workers share
metrics    that memory, and what the supervisor knows, as Prometheus reads it
page       a summary of the audit log as one self-contained HTML page
    known      the destinations that a page remembers, for the next one
    table      its tables
    plot       its drawings, as SVG
units      numbers as a person reads them
"""
