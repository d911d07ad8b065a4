"""The commands by which a finished run answers."""
