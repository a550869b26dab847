"""The report: out of the audit trail, how long until we knew, how long until it was stopped, and how we know."""
