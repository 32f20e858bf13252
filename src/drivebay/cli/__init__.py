"""The command line: names things and wires the rooms together."""
