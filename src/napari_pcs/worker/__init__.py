"""A process of its own for networks: kept warm, told what to do in JSON, and no harm to the window if it dies."""
