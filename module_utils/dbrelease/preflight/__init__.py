"""Preflight: everything that must be true before a release may begin, looked at without changing anything."""
