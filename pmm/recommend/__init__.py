"""What a finished run answers: recommendations, similar items, reasons, for items new to it too."""
