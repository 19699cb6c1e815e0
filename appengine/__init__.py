"""The engine of an edge node: runs pods on Docker from the local store."""
