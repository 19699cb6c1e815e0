"""The demo: a small Internet of namespaces, both sides of KubeBus on it, and a story with a check for every step."""
