"""The checks before a release may begin.

Promises every problem at once, each with its remedy; never changes anything.
Begin with judge.py: it lists the rules.
"""
