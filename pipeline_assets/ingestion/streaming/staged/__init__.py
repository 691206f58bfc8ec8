"""Typed rows become staged partitions: the events of a stream by day, and the rows of a followed table as its changes left them."""
