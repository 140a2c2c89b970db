"""One video through the steps: looked at once, planned, cut out; every result kept under its key."""
