"""Sessions: sealing and verifying ids, and the tables of what is open and what has ended. Pure: time is handed in."""
