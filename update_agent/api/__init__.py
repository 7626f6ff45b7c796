"""What clients see, shared by the daemon and the command line.

JSON is an interface: names stay, units are in the keys, times are RFC 3339 in UTC, enums are words, changes only add.
"""
