"""Faults that are injected from outside, into a product that has no hook for them.

`points` names the places in the code that a fault can strike at, `hook` is loaded into every process of a run
and strikes there, `harness` starts runs with it and measures how they recover, `campaign` draws faults at
random: python -m tests.chaos.
"""
