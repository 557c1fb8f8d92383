"""Put the restored database in the place of the live one, which is kept under another name.

Promises both renames in one transaction, and that rows written since the backup are saved with a script that writes
them again; never drops the previous database.
Begin with swap.py.
"""
