"""Whether streams make progress: consumer lag, connector state, and which days received events."""
