"""Storage Transfer Service: a gRPC server as strict as the service, which really copies objects."""
