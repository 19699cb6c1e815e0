"""Our tunnel and its peers, measured side by side in the same run: ``./scripts/bench --help``."""
