"""What a merge will do, decided from headers alone: no tensor's bytes are read."""
