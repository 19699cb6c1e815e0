"""The water utility: a tank, a pressure station and a valve, three sites behind NAT, controlled from the edge."""
