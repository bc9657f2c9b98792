"""How fast a packed model runs here: whole, by layer, on each instruction set."""
