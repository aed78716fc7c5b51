"""The typed answers of stats endpoints, for people: one file per vendor, pure.

A record holds everything that is documented, and in *extra* what is not. Nothing here
is ever a reading: a report may tell of another period, or of a part of the account.
"""
