"""Settings: their fields and checks, the flags made from them, defaults by dataset, the command line."""
