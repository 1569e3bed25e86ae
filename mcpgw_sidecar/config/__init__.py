"""The configuration file: strict decoding with places, and following it while it changes."""
