"""Samples of a deployed release, and the verdict on a window of them.

Promises that what could not be observed counts as inconclusive; never writes to the database.
Begin with sample.py; readiness/ decides whether the next release may begin.
"""
