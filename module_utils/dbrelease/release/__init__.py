"""The release as data: read, validated as a whole, and turned into its requirements for a target.

Promises one sentence for each problem, with the place in the document; never touches a target.
Begin with load.py.
"""
