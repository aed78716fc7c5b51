"""Ways in: one file for each kind of client, over what `exchange` shares."""
