"""What the first bytes of a flow are: recognised from the bytes alone, on any port."""
