"""One run at a time acts on a target; what an interrupted run left is found here.

Promises that a second run is refused while the first one lives and that a dead run blocks nobody; never changes the
application's data.
Begin with claim.py, then exclusive.py.
"""
