"""What a request will take in memory and time, before it is done; whether it may begin."""
