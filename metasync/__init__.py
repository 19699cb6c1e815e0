"""The metadata store of each node and the two-way, revision-based sync between them."""
