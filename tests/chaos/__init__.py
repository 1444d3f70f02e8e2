"""Fault injection from outside: the product itself has no hooks for it.

`points` lists the places in the code where a fault can strike; `hook` is loaded into every process of a run
and strikes there; `harness` starts runs with the hook and measures how they recover; `campaign` draws random
faults: python -m tests.chaos.
"""
