"""Where heartbeats go, behind the `MetricsSink` port."""
