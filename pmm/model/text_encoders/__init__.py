"""Families of text encoders, each cut into a frozen trunk and a top that trains."""
