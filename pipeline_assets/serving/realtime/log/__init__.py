"""What the prediction service gives to Kafka: its log of predictions, feedback on them, and events that came by HTTP."""
