"""What leaves the sensor: alerts, logs, counters."""
