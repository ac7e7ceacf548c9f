"""The simulator: the router's own objects and the engine's own step model on a virtual clock."""
