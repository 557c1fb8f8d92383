"""One run at a time acts on a target; what an interrupted run left is detected here.

Promises that a second run is refused while the first one is running and that a dead run blocks no other; never changes
the application's data.
Begin with claim.py, then exclusive.py.
"""
