"""What runs in the campus's containers, and what its cameras share with it."""
