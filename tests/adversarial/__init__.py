"""Attacks on the real daemon, each stated as what must hold; README's "Proven" table has the last figures.

`pytest tests/adversarial` is the short form, `pytest tests/adversarial --long` the long one. Nothing here may pass
because something was missing: every test that sends counts what it sent, and the figures are printed at the end.
"""
