"""Whether the prediction service keeps its promises, as the asset graph shows it: looked at over HTTP, judged, recorded by a sensor."""
