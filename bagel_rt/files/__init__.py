"""Files that users name: reading paths and texts as users type them, writing results, settings inside pictures."""
