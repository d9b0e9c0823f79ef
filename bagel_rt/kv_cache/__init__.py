"""The paged key-value cache. page_table.py keeps the books (which page belongs to which context) in integers;
page_pool.py joins it with the engine's memory for keys and values. How contexts use it: docs/internals/kv-cache.md."""
