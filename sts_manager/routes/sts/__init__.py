"""The routes that Google's Storage Transfer Service travels: its client, its quotas, its log."""
