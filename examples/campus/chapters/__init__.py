"""The chapters of the campus's story. A step does something, checks what came of it, and returns what it saw."""
