"""The restored database takes the place of the live one, which stays under another name.

Promises both renames in one transaction, and that rows written since the backup are saved with a script that writes
them again; never drops the old database.
Begin with swap.py.
"""
