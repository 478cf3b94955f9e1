"""Networks, and the orthogonal metric that follows each of them."""
