"""Networks, their heads and the folders that hold them."""
