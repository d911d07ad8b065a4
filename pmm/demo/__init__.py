"""`pmm demo`: the whole way on the embedded world, with its small encoders."""
