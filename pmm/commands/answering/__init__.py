"""Commands that let a finished run answer, one file each."""
