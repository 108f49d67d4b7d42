"""``fiscus replay`` (``replay.command``): traffic through the HTTP API, and the books against what it really used."""
