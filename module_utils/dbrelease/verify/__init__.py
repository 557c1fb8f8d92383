"""Claims about a live target: structure, checks, scenarios, plans, unchanged tables, the API.

Promises that each claim ends as a proof with what was expected and what was observed; never leaves a row behind.
Begin with checks.py, the smallest.
"""
