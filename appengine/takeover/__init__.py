"""Pods of a node that died run on another node of its site: who may, decided by the site alone."""
