"""`pmm report`: finished runs as one page that people read, in HTML or Markdown."""
