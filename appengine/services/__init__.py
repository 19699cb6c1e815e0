"""Services at the edge: cluster IPs by nftables and cluster names by a small DNS, both from the local store."""
