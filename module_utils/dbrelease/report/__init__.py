"""One model of a run's evidence, its renderings, and the messages about it.

Promises that every rendering says the same; never reads anything but the journal's lines and the release.
Begin with model.py.
"""
