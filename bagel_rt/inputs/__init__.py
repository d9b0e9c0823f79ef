"""Pictures and words become segments of a context; tokens become words again."""
