"""The commands that tell what runs came to, for people to read."""
