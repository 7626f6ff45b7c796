"""Other machines: downloads and the update server."""
