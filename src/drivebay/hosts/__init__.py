"""Where guests live: what carries a controller to them."""
