"""How a run flows: profile -> Snakefile -> strict notebook runner -> results. Nobody needs it to read the method."""
