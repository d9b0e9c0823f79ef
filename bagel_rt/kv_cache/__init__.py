"""The paged key-value cache: a table of integers, and the pool of memory it describes."""
