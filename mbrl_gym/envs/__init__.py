"""The shells that make a world model a Gymnasium environment."""
