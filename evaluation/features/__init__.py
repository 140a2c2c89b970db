"""Networks that turn frames into numbers, their preprocessing, and what is kept of them."""
