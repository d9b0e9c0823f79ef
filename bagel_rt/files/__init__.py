"""Files that people name: paths as they type them, texts they wrote, and every file that is written for them."""
