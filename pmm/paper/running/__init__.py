"""What the paper's tables need, run: processes, rows, the order, how long it takes."""
