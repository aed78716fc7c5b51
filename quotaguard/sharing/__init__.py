"""What the ledgers that processes share have in common; a store is all that differs.

A store keeps one text per account and swaps it whole. Everything else is here: the
books in that text, the clock that goes with them, and a process's place at them.
"""
