"""The ground floor: records, books and stories. Pure.

Rule of this folder: nothing here knows what time it is, every entry is told.
No clock, no I/O, no thread, no log, no third-party import.
"""
