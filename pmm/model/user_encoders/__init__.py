"""What reads a user's items: Transformer, GRU, dilated convolutions."""
