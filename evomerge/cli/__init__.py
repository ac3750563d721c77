"""The command line: each command reads its arguments, calls the system, prints the answer."""
