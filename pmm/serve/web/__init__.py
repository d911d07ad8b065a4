"""The server's calls over HTTP: what comes in, who may, how much, and what is answered."""
