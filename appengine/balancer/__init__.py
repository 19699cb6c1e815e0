"""Spread work between near and far workers, by what is measured, with a bounded queue. See ``docs/balancing.md``."""
