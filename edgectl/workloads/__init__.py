"""Controllers of the embedded control plane: they make what is there into what is wanted."""
