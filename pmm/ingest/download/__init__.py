"""Getting raw files and pictures from the network: politely, resumably, each outcome recorded."""
