"""One module a target; each opens with the invariant that it holds."""
