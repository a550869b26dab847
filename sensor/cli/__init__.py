"""The hostbrake command."""
