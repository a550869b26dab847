"""The audit trail: an append-only hash chain of what the sensor saw, meant and did, under signed Merkle tree heads."""
