"""Real namespaces, NAT, processes, engines and servers for tests, the demo and benchmarks. See README.md."""
