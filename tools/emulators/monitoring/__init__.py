"""Cloud Monitoring on the stage: metrics, alert policies, notification channels."""
