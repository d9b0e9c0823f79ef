"""The paged key-value cache. page_table.py keeps the books (which page belongs to which context) in integers;
page_pool.py joins it with the engine's memory for keys and values. How contexts use it: docs/internals/kv-cache.md.

The pool's layout as graphs read it (rows by layer, keys or values, slot) is stated in artefact/contract.py and read by
gather_past in export/bagel_export/onnx/wrappers.py; pages and slots are this room's alone.
"""
