"""What frozen encoders make of a whole catalogue, computed once and stored."""
