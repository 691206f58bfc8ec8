"""From a source to Kafka and on to landing: topics, publications and connectors, as they follow from the declarations."""
