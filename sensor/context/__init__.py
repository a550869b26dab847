"""Who did it and where: processes, workloads, users, routes."""
