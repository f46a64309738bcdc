"""What a run would do, before it does it: everything read, counted and shown, nothing trained."""
