"""The engine: pure functions that plan and compare, and thin sessions that act on Postgres, containers, files and HTTP.

Each folder is a package with one promise; docs/architecture.md shows which packages stand above which.
Only module.py knows Ansible: it turns a function of a package into a module of library/.
"""
