"""What chance alone could have done: over seeds, over users, over many comparisons."""
