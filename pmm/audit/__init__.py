"""What leaks in a target or is an artefact of it, found before anybody believes a number on it."""
