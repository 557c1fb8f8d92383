"""Samples of a deployed release, and the verdict on a window of them.

Promises that a value that could not be observed is inconclusive; never writes to the database.
Begin with sample.py; readiness/ decides whether the next release may begin.
"""
