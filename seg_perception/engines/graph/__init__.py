"""The deployed graph as a file: reading and checking it, and edits that need no torch."""
