"""Pre-trained text and picture encoders, cut into a frozen trunk and a trainable top."""
