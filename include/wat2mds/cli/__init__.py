"""The command line: one small function a command, which checks its input, calls the software and prints one JSON line."""
