"""DSI's table, live: speculation parallelism against an honestly counted synchronous speculation."""
