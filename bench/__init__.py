"""Measurements of whole playbooks on the reference stack: `make bench`."""
