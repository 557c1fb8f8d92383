"""Watching a release that is deployed: samples, what each of them shows, and the verdict on a window of them."""
